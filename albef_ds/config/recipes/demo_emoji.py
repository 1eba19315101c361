"""Recipe of the demonstration: image-text retrieval learned from the shipped emoji corpus in minutes on two CPU cores."""

from __future__ import annotations

from albef_ds.config import schema


def demo_emoji() -> schema.RunConfig:
    """A small ViT from scratch beside a frozen text encoder, on the shipped emoji corpus: 6 minutes on 2 CPU cores.

    Figure: the paper has none for this corpus. Hours: 0.1. Command, which unpacks the corpus and prints the result:

        albef-ds demo
    """
    # These settings learned most per CPU second, see benchmarks/demo.md.
    return schema.RunConfig(
        recipe="demo_emoji",
        output="runs/demo",
        model=schema.ModelConfig(
            vision=schema.VisionConfig(image_size=48, patch_size=8, width=192, depth=2, num_heads=3, stem="convolution"),
            text=schema.TextConfig(
                width=384,
                num_layers=6,
                num_fusion_layers=1,
                num_heads=12,
                intermediate_width=1536,
                dropout=0.0,
                pooling="mean",
                frozen=True,
            ),
            embed_dim=256,
        ),
        # The corpus has about 5,000 captions, and MLM has only a few different masks for most of them.
        compute=schema.ComputeConfig(cached_texts=20_000),
        task=schema.PretrainConfig(
            queue_size=2048, momentum=0.97, alpha_ramp_epochs=3.0, itm_weight=3.0, itm_random_negatives=0.5
        ),
        data=schema.DataConfig(num_workers=1, max_tokens=8, crop_scale_min=0.5, rand_augment=False),
        init=schema.InitConfig(visual_encoder="scratch"),
        optim=schema.OptimConfig(learning_rate=8e-4, initial_learning_rate=1e-5, final_learning_rate=1e-5, warmup_samples=1_500),
        engine=schema.EngineConfig(kind="zero", stage=2, device="cpu", precision="fp32"),
        train=schema.TrainConfig(micro_batch_size=32, global_batch_size=64, epochs=100.0, max_minutes=6.0, log_every=20),
    )
