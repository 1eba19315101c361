"""ALBEF (align before fuse, arXiv 2107.07651) for large-scale vision-language pretraining on DeepSpeed ZeRO.

`albef_ds.load(path)` returns a trained model, see `albef_ds.inference.model`. Importing the package imports nothing heavy.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from albef_ds.inference.model import load as load
else:

    def __getattr__(name: str) -> Any:
        if name == "load":
            from albef_ds.inference.model import load  # start-up time: this imports torch

            return load
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
