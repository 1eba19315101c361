"""The smallest run that touches every part."""

from __future__ import annotations

from albef_ds.config.schema import (
    DataConfig,
    EngineConfig,
    InitConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)


def debug() -> RunConfig:
    """A toy model from scratch, 20 steps of 8 pairs on one process: seconds on a laptop's CPU.

    Figure: none, it learns nothing. Hours: seconds. Command:

        albef-ds train --recipe debug data.shards=SHARDS

    `engine.kind=zero engine.momentum_storage=value_residual` takes the same run through DeepSpeed and the sharded momentum.
    """
    return RunConfig(
        recipe="debug",
        output="runs/debug",
        model=ModelConfig(
            vision=VisionConfig(image_size=32, patch_size=16, width=32, depth=2, num_heads=2),
            text=TextConfig(width=32, num_layers=1, num_fusion_layers=2, num_heads=2, intermediate_width=64, max_positions=32),
            embed_dim=16,
        ),
        task=PretrainConfig(queue_size=64),
        data=DataConfig(num_workers=0),
        init=InitConfig(visual_encoder="scratch", text_encoder="scratch"),
        optim=OptimConfig(warmup_samples=32),
        engine=EngineConfig(kind="local", precision="fp32", momentum_storage="dense"),
        train=TrainConfig(micro_batch_size=8, global_batch_size=8, max_steps=20, log_every=1, eval_samples=16),
    )
