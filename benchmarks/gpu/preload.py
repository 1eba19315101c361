"""What the sections' processes are forked from: imports that most of them need, before any GPU is touched."""

from __future__ import annotations

import gc
import importlib

for _name in ("torch", "albef_ds.engine.local", "albef_ds.engine.build", "albef_ds.tasks.pretrain", "albef_ds.config.recipes"):
    importlib.import_module(_name)
# Otherwise a collection in each process goes through all these objects and copies their pages.
gc.collect()
gc.freeze()
