"""Which of DeepSpeed's compiled operators are there, for `albef-ds doctor`."""

from __future__ import annotations

import os

import torch

OPERATORS = ("fused_adam", "cpu_adam")
"""Those that a run may ask for (`optim.name`, offload)."""


def operators() -> tuple[list[str], list[str]]:
    """Those of `OPERATORS` that are built already, and those that can be built at first use here.

    Raises:
        ImportError: DeepSpeed cannot be imported.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.git_version_info import installed_ops  # optional package, and it reads the environment set above
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    built = [name for name in OPERATORS if installed_ops.get(name)]
    # Asked one by one: asking for all of DeepSpeed's operators compiles probes for libraries that nothing here uses.
    possible = [name for name in OPERATORS if name in ALL_OPS and ALL_OPS[name].is_compatible(verbose=False)]
    return built, [name for name in possible if name not in built]
