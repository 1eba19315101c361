"""The `albef-ds` command line: `main.py` finds the subcommand, one module per subcommand has `main(argv) -> int`."""
