"""The command line: parse, call, render, exit code. Installed as `normfold_cli`."""
