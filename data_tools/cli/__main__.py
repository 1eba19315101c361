"""`python -m data_tools.cli`: the same as `albef-data`."""

import sys

from data_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
