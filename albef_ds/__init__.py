"""ALBEF (align before fuse, arXiv 2107.07651) for large-scale vision-language pretraining on DeepSpeed ZeRO.

`albef_ds.load(path)` gives a trained model, see `albef_ds.interface`; nothing heavy is imported before it is asked for.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "load":
        return __import__("albef_ds.interface", fromlist=["load"]).load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
