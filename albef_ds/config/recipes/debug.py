"""Recipe of the smallest run that uses every part."""

from __future__ import annotations

from albef_ds.config import schema


def debug() -> schema.RunConfig:
    """A toy model from scratch, 20 steps of 8 pairs on one process: seconds on a laptop's CPU.

    Figure: none, it learns nothing. Hours: seconds. Command:

        albef-ds train --recipe debug data.shards=SHARDS

    `engine.kind=zero engine.momentum_storage=value_residual` runs the same with DeepSpeed and the sharded momentum model.
    """
    return schema.RunConfig(
        recipe="debug",
        output="runs/debug",
        model=schema.ModelConfig(
            vision=schema.VisionConfig(image_size=32, patch_size=16, width=32, depth=2, num_heads=2),
            text=schema.TextConfig(
                width=32, num_layers=1, num_fusion_layers=2, num_heads=2, intermediate_width=64, max_positions=32
            ),
            embed_dim=16,
        ),
        task=schema.PretrainConfig(queue_size=64),
        data=schema.DataConfig(num_workers=0),
        init=schema.InitConfig(visual_encoder="scratch", text_encoder="scratch"),
        optim=schema.OptimConfig(warmup_samples=32),
        engine=schema.EngineConfig(kind="local", precision="fp32", momentum_storage="dense"),
        train=schema.TrainConfig(micro_batch_size=8, global_batch_size=8, max_steps=20, log_every=1, eval_samples=16),
    )
