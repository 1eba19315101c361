"""Users' mistakes, each met by one line with its fix: across packages, from the command line down to the data."""
