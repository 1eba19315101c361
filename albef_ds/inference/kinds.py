"""Which methods a model is trained for."""

from __future__ import annotations

from albef_ds.common.errors import WeightsError
from albef_ds.config.schema import RunConfig
from albef_ds.tasks.registry import TASKS, kind_of


def require(config: RunConfig, method: str) -> None:
    """Raises `WeightsError` unless a model with these settings is trained for `method`, such as "match" or "answer"."""
    kind = kind_of(config.task)
    if method not in kind.uses:
        kinds = " or ".join(other.name for other in TASKS.values() if method in other.uses)
        raise WeightsError(f"{method} needs a model of kind {kinds}, but this one is of kind {kind.name}: load another")
