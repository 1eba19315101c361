"""Settings of the engine."""

from __future__ import annotations

import pytest

from albef_ds.common.errors import ConfigError
from albef_ds.config.engine import EngineConfig


@pytest.mark.parametrize(
    ("group", "world_size", "node_size", "size"),
    [
        ("node", 16, 8, 8),
        ("node", 4, 4, 4),
        ("node", 12, 8, 12),  # nodes of 8 and 4 ranks
        ("world", 16, 8, 16),
        ("1", 16, 8, 1),
        ("4", 16, 8, 4),
        ("16", 16, 8, 16),
        ("8", 1, 1, 1),  # the evaluation of a run on 8 ranks
    ],
)
def test_a_momentum_group_is_a_node_all_ranks_or_a_number_of_them(group: str, world_size: int, node_size: int, size: int) -> None:
    assert EngineConfig(momentum_group=group).momentum_group_size(world_size, node_size) == size


@pytest.mark.parametrize("group", ["", "0", "00", "-1", "nodes", "2.5", "²", "9" * 5000])
def test_what_is_no_momentum_group_is_refused(group: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.momentum_group is .*: give node, world or a number of ranks"):
        EngineConfig(momentum_group=group)


@pytest.mark.parametrize("group", ["3", "5"])
def test_a_momentum_group_that_does_not_divide_the_ranks_is_refused(group: str) -> None:
    with pytest.raises(ConfigError, match=f"engine.momentum_group is {group}, which does not divide 16 ranks"):
        EngineConfig(momentum_group=group).momentum_group_size(16, 8)


def test_a_bucket_has_at_least_one_element() -> None:
    with pytest.raises(ConfigError, match=r"engine\.momentum_bucket_size is 0"):
        EngineConfig(momentum_bucket_size=0)
