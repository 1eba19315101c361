"""Settings of the engine: DeepSpeed's stage and knobs, the precision, and where the momentum model's weights are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from albef_ds.config.fields import positive, require, setting


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Engine that runs forward, backward and step."""

    kind: Literal["local", "zero"] = setting("zero", "local: plain torch, one process, the reference; zero: DeepSpeed")
    stage: int = setting(2, "ZeRO stage: 0 replicates, 1 shards optimizer state, 2 also gradients, 3 also parameters")
    ds_config: str = setting("", "JSON file with further ZeRO knobs (ds_configs/ has examples)")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "device to train on; auto: a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "auto: bf16 where the hardware multiplies it faster than fp32, else fp32", paper="fp32 (released code)"
    )
    momentum_storage: Literal["dense", "value_residual", "fp32", "fp16_stochastic", "fp16_nearest"] = setting(
        "value_residual",
        "momentum weights; dense: a full fp32 copy per rank; value_residual: sharded as fp16 value + residual; "
        "the others are for comparison",
        paper="full fp32 copy",
    )
    momentum_group: str = setting(
        "node",
        "ranks over which a sharded momentum model is spread; every group holds all of it. node: the ranks of a node; world: "
        "all ranks; a number: so many consecutive ranks",
    )
    momentum_bucket_size: int = setting(
        25_000_000, "parameters of the momentum model that one message gathers; at least one block", unit="elements"
    )

    def __post_init__(self) -> None:
        require(self.stage in (0, 1, 2, 3), "engine.stage", f"is {self.stage}", "give 0, 1, 2 or 3")
        require(
            self.kind == "zero" or not self.ds_config,
            "engine.ds_config",
            f"{self.ds_config} would be ignored by engine.kind={self.kind}",
            "set engine.kind=zero or remove engine.ds_config",
        )
        require(
            bool(re.fullmatch("node|world|0*[1-9][0-9]{0,8}", self.momentum_group)),
            "engine.momentum_group",
            f"is {self.momentum_group}",
            "give node, world or a number of ranks",
        )
        positive("engine", self, "momentum_bucket_size")

    def momentum_group_size(self, world_size: int, node_size: int) -> int:
        """Returns the ranks of a momentum group on `world_size` ranks, `node_size` on every node.

        Nodes of unequal size (`node_size` does not divide `world_size`) are no groups: `node` then means `world`, as does a
        larger number than there are ranks. Raises `ConfigError` if a number does not divide `world_size`.
        """
        if self.momentum_group == "world":
            return world_size
        if self.momentum_group == "node":
            return node_size if world_size % node_size == 0 else world_size
        size = min(int(self.momentum_group), world_size)
        require(
            world_size % size == 0,
            "engine.momentum_group",
            f"is {size}, which does not divide {world_size} ranks",
            "give a number that does, node or world",
        )
        return size
