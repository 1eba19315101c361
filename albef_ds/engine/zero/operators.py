"""Lists DeepSpeed's compiled operators that are available, for `albef-ds doctor`."""

from __future__ import annotations

import os

import torch

OPERATORS = ("fused_adam", "cpu_adam")
"""Operators that a run can use (`optim.name`, offload)."""


def operators() -> tuple[list[str], list[str]]:
    """Returns those of `OPERATORS` that are already built, and those that can be built here at first use.

    Raises:
        ImportError: DeepSpeed cannot be imported.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.git_version_info import installed_ops  # optional package, and it reads the environment set above
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    built = [name for name in OPERATORS if installed_ops.get(name)]
    # One by one: checking all of DeepSpeed's operators compiles probes for libraries that are not used here.
    possible = [name for name in OPERATORS if name in ALL_OPS and ALL_OPS[name].is_compatible(verbose=False)]
    return built, [name for name in possible if name not in built]
