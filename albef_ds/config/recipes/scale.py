"""Recipes larger than the paper's: larger encoders, ZeRO-3 where the model needs it. The paper has no figures for them."""

from __future__ import annotations

from albef_ds.config.schema import ComputeConfig, EngineConfig, ModelConfig, RunConfig, TextConfig, TrainConfig, VisionConfig

_RECOMPUTE = ComputeConfig(checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)


def pretrain_large() -> RunConfig:
    """ViT-L/16 at 256 px with BERT-large split 12 text + 12 fusion layers, 0.69B parameters, ZeRO-2.

    Figure and hours: not measured, the paper stops at base size. Command:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_large data.shards=SHARDS \\
            init.visual_encoder=vit_large_patch16_224.safetensors init.text_encoder=bert-large-uncased \\
            engine.ds_config=ds_configs/zero2.json
    """
    return RunConfig(
        recipe="pretrain_large",
        output="runs/pretrain_large",
        model=ModelConfig(
            vision=VisionConfig(image_size=256, patch_size=16, width=1024, depth=24, num_heads=16),
            text=TextConfig(width=1024, num_layers=12, num_fusion_layers=12, num_heads=16, intermediate_width=4096),
        ),
        compute=_RECOMPUTE,
        engine=EngineConfig(stage=2, precision="bf16"),
        train=TrainConfig(micro_batch_size=64, global_batch_size=1024),
    )


def pretrain_huge() -> RunConfig:
    """ViT-H/14 at 224 px with 16 text + 16 fusion layers of width 1536, 1.72B parameters, ZeRO-3.

    Figure and hours: not measured, the paper stops at base size. No BERT of this width is published, so the text side
    starts from scratch. Command, on 4 nodes of 8 GPUs listed in HOSTFILE:

        deepspeed --hostfile HOSTFILE albef_ds/train.py --recipe pretrain_huge data.shards=SHARDS \\
            init.visual_encoder=vit_huge_patch14_224.safetensors init.text_encoder=scratch \\
            engine.ds_config=ds_configs/zero3_64.json
    """
    return RunConfig(
        recipe="pretrain_huge",
        output="runs/pretrain_huge",
        model=ModelConfig(
            vision=VisionConfig(image_size=224, patch_size=14, width=1280, depth=32, num_heads=16),
            text=TextConfig(width=1536, num_layers=16, num_fusion_layers=16, num_heads=24, intermediate_width=6144),
        ),
        compute=_RECOMPUTE,
        engine=EngineConfig(stage=3, precision="bf16"),
        train=TrainConfig(micro_batch_size=32, global_batch_size=2048),
    )


RECIPES = (pretrain_large, pretrain_huge)
