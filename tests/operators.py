"""Compiles DeepSpeed's operators that the tests use, so that no test's time limit has to allow for it.

`python -m tests.operators` keeps them in TORCH_EXTENSIONS_DIR. It needs a C++ compiler and ninja, or finds them there.
"""

from __future__ import annotations

OPERATORS = ("cpu_adam", "deepspeed_shm_comm")
"""AdamW of offloaded states, and what DeepSpeed's own communication on a CPU loads."""


def main() -> None:
    """Compiles or finds each; an operator that cannot be compiled ends it with DeepSpeed's error."""
    from deepspeed.ops.op_builder.all_ops import ALL_OPS  # optional package

    for name in OPERATORS:
        if name in ALL_OPS:
            ALL_OPS[name].load(verbose=False)


if __name__ == "__main__":
    main()
