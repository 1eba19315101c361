"""`albef-ds train` for launchers: `deepspeed albef_ds/train.py ...`, `torchrun -m albef_ds.train ...`, `srun python -m ...`.

Run by its path, Python puts this file's folder first on the search path, where its packages (`config`, `data`, ...) could be
taken for other projects'. That entry is replaced by the root of the repository before anything else is imported.
"""

import os
import sys

if not __package__:
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(_here), *(entry for entry in sys.path if os.path.abspath(entry or ".") != _here)]


def main() -> int:
    """Run `albef-ds train` with this process's arguments; its exit code."""
    from albef_ds.cli.main import main as command_line  # start-up: the search path is set by now

    return command_line(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
