"""`python -m cli` in a checkout, `python -m normfold_cli` when installed."""

from .app import main

if __name__ == "__main__":
    main()
