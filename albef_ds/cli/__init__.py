"""The `albef-ds` command line: `main.py` calls the subcommand's module, which has `main(argv) -> int`."""
