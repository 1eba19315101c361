"""What the ranks of tests are forked from: everything they use is imported once, and left alone by the garbage collector."""

from __future__ import annotations

import gc
import importlib

MODULES = (
    "pytest",
    "torch",
    "torch._dynamo",  # what torch.optim imports when the first optimizer is made
    "deepspeed",
    "torch.utils.tensorboard",
    "albef_ds.config.recipes",
    "albef_ds.engine.zero.engine",
    "albef_ds.training.run",
    "tests.checkpoint.common",
)

for _name in MODULES:
    importlib.import_module(_name)
# Otherwise every full collection in every rank goes through the objects of all these modules, and copies their pages.
gc.collect()
gc.freeze()
