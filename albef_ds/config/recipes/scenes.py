"""Recipes of small models on generated scenes (`albef-ds scenes`): every task in minutes on CPU cores, with known ceilings."""

from __future__ import annotations

from dataclasses import replace

from albef_ds.config import schema

_VOCABULARY = 45
"""Number of lines of vocab.txt: words of scenes and special tokens."""


def _scenes(name: str, task: schema.TaskConfig, *, epochs: float, rate: float) -> schema.RunConfig:
    return schema.RunConfig(
        recipe=name,
        output=f"runs/{name}",
        model=schema.ModelConfig(
            vision=schema.VisionConfig(image_size=32, patch_size=8, width=96, depth=3, num_heads=3, stem="convolution"),
            text=schema.TextConfig(
                vocab_size=_VOCABULARY,
                width=96,
                num_layers=2,  # one seldom learns which object is on which side, see benchmarks/binding.md
                num_fusion_layers=3,
                num_heads=3,
                intermediate_width=384,
                max_positions=32,
                dropout=0.0,
            ),
            embed_dim=64,
        ),
        task=task,
        # A crop could cut an object off, and a flip would turn left into right.
        data=schema.DataConfig(
            num_workers=0, max_tokens=24, mlm_probability=0.4, crop_scale_min=0.999, flip=False, rand_augment=False
        ),
        init=schema.InitConfig(visual_encoder="scratch", text_encoder="scratch", std=0.08),
        optim=schema.OptimConfig(
            learning_rate=rate, initial_learning_rate=1e-5, final_learning_rate=1e-5, warmup_samples=6400, clip_norm=1.0
        ),
        engine=schema.EngineConfig(kind="zero", stage=2, device="cpu", precision="fp32"),
        train=schema.TrainConfig(micro_batch_size=32, global_batch_size=64, epochs=epochs, log_every=20, dry_run_batch=False),
    )


def scenes_pretrain() -> schema.RunConfig:
    """Pretraining on scenes: ITC, ITM and MLM with 40% of the words masked, so relations have to be read from the image.

    Figure: none in the paper; ceilings in SCENES/scenes.json. Hours: 0.3 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_pretrain data.shards=SCENES/pretrain/train \\
            data.vocab_file=SCENES/vocab.txt
    """
    task = schema.PretrainConfig(queue_size=0, momentum=0.99, alpha=0.0, alpha_ramp_epochs=3.0, itm_random_negatives=0.5)
    config = _scenes("scenes_pretrain", task, epochs=30.0, rate=1e-3)
    return replace(config, data=replace(config.data, group_size=4))


def scenes_retrieval() -> schema.RunConfig:
    """Retrieval fine-tuned on scenes; R@1 of the hard gallery is at most 25% without relations.

    Without distillation, which lowers recall here with every seed (benchmarks/ablation.md).

    Figure: none in the paper; ceilings in SCENES/scenes.json. Hours: 0.1 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_retrieval --checkpoint runs/scenes_pretrain \\
            data.annotations=SCENES/retrieval_train.json data.image_root=SCENES/images data.vocab_file=SCENES/vocab.txt
    """
    task = schema.RetrievalConfig(queue_size=0, momentum=0.99, alpha=0.0, itm_random_negatives=0.3, k_test=8)
    return _scenes("scenes_retrieval", task, epochs=5.0, rate=5e-4)


def scenes_vqa() -> schema.RunConfig:
    """Questions about scenes, answered by the decoder; the question alone gives 37%.

    Figure: none in the paper; ceilings in SCENES/scenes.json. Hours: 0.1 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_vqa --checkpoint runs/scenes_pretrain \\
            data.annotations=SCENES/vqa_train.json data.image_root=SCENES/images data.vocab_file=SCENES/vocab.txt
    """
    return _scenes("scenes_vqa", schema.VqaConfig(momentum=0.99, decoder_layers=2, k_test=16), epochs=8.0, rate=1e-3)


def scenes_nlvr_pretrain() -> schema.RunConfig:
    """Text assignment on scenes, the stage before NLVR2.

    Figure: none in the paper. Hours: 0.05 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_nlvr_pretrain --checkpoint runs/scenes_pretrain \\
            data.shards=SCENES/pretrain/train data.vocab_file=SCENES/vocab.txt
    """
    return _scenes("scenes_nlvr_pretrain", schema.TextAssignmentConfig(), epochs=1.0, rate=5e-4)


def scenes_nlvr() -> schema.RunConfig:
    """Statements about two scenes; the text alone gives 50%.

    Figure: none in the paper; ceilings in SCENES/scenes.json. Hours: 0.1 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_nlvr --checkpoint runs/scenes_nlvr_pretrain \\
            data.annotations=SCENES/nlvr_train.json data.image_root=SCENES/images data.vocab_file=SCENES/vocab.txt
    """
    return _scenes("scenes_nlvr", schema.ClassificationConfig(num_classes=2, num_images=2, momentum=0.99), epochs=10.0, rate=4e-4)


def scenes_entailment() -> schema.RunConfig:
    """Entailment, neutral or contradiction about a scene with a screen; the hypothesis alone gives 33%.

    Figure: none in the paper; ceilings in SCENES/scenes.json. Hours: 0.1 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_entailment --checkpoint runs/scenes_pretrain \\
            data.annotations=SCENES/ve_train.json data.image_root=SCENES/images data.vocab_file=SCENES/vocab.txt
    """
    return _scenes("scenes_entailment", schema.ClassificationConfig(num_classes=3, momentum=0.99), epochs=10.0, rate=1e-3)


def scenes_grounding() -> schema.RunConfig:
    """Weakly supervised grounding among three objects: retrieval training, Grad-CAM evaluation; chance is 33%.

    Figure: none in the paper; ceilings in SCENES/scenes.json. Hours: 0.1 on 2 CPU cores. Command:

        deepspeed --num_gpus 2 albef_ds/train.py --recipe scenes_grounding --checkpoint runs/scenes_pretrain \\
            data.annotations=SCENES/refcoco_train.json data.refs=SCENES/refs.json data.instances=SCENES/instances.json \\
            data.detections=SCENES/dets.json data.image_root=SCENES/images data.vocab_file=SCENES/vocab.txt
    """
    task = schema.RetrievalConfig(queue_size=0, momentum=0.99, itm_random_negatives=0.5, k_test=8)
    return _scenes("scenes_grounding", task, epochs=10.0, rate=5e-4)


RECIPES = (scenes_pretrain, scenes_retrieval, scenes_vqa, scenes_nlvr_pretrain, scenes_nlvr, scenes_entailment, scenes_grounding)
