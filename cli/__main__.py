"""`python -m cli` in a checkout, `python -m normfold_cli` when installed."""

from .entry import main

if __name__ == "__main__":
    main()
