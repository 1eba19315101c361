"""Options that `albef-ds search` and `albef-ds serve` share."""

from __future__ import annotations

IMAGES_HELP = "a folder with its subfolders, a text file of paths, or the manifest.json of shards"
APPROXIMATE_HELP = "above N images search approximately with usearch (1,000,000 where it is installed)"
_DEFAULT = 1_000_000


def approximate_above(given: int | None) -> int | None:
    """The number of images above which search is approximate; None: never.

    Raises `MachineError` if it was given and usearch is missing.
    """
    from albef_ds.inference.index.approximate import is_installed, require  # start-up time

    if given is not None:
        require()
        return given
    return _DEFAULT if is_installed() else None
