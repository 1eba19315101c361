"""Recipes of the paper's fine-tunings (Li et al., arXiv 2107.07651, sections 5 and 6), with the released code's settings.

Each starts from a pretrained model: a run, a checkpoint folder, a model folder or a released file. The position table is
resized to 384 px. Batch sizes are for 8 GPUs. docs/finetuning.md describes the annotation files.
"""

from __future__ import annotations

from albef_ds.config import schema
from albef_ds.config.data import RELEASED_LIMITS

_NUM_GPUS = 8
_WARMUP_RATE = 1e-5


def _finetune(
    name: str,
    task: schema.TaskConfig,
    *,
    micro_batch: int,
    epochs: float,
    learning_rate: float,
    warmup_steps: int,
    limits: str = "",
    crop_scale_min: float = 0.5,
) -> schema.RunConfig:
    batch = micro_batch * _NUM_GPUS
    kept = RELEASED_LIMITS[limits or task.kind]
    return schema.RunConfig(
        recipe=name,
        output=f"runs/{name}",
        model=schema.ModelConfig(vision=schema.VisionConfig(image_size=384)),
        task=task,
        data=schema.DataConfig(**kept._asdict(), crop_scale_min=crop_scale_min),
        optim=schema.OptimConfig(
            learning_rate=learning_rate,
            initial_learning_rate=_WARMUP_RATE,
            final_learning_rate=1e-6,
            warmup_samples=warmup_steps * batch,
        ),
        train=schema.TrainConfig(micro_batch_size=micro_batch, global_batch_size=batch, epochs=epochs),
    )


def retrieval_flickr() -> schema.RunConfig:
    """Image-text retrieval on Flickr30K: ITC + ITM at 384 px, 10 epochs.

    Figure: paper, 14M, test R@1/5/10: text retrieval 95.9/99.8/100, image retrieval 85.6/97.5/98.9.
    Hours: not published, not measured here. Command:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe retrieval_flickr --checkpoint ALBEF.pth \\
            data.image_root=flickr30k data.annotations=flickr30k_train.json \\
            data.eval_annotations=flickr30k_val.json data.test_annotations=flickr30k_test.json
    """
    task = schema.RetrievalConfig(k_test=128)
    return _finetune("retrieval_flickr", task, micro_batch=32, epochs=10, learning_rate=1e-5, warmup_steps=0)


def retrieval_coco() -> schema.RunConfig:
    """Image-text retrieval on COCO: ITC + ITM at 384 px, 5 epochs.

    Figure: paper, 14M, 5k test R@1/5/10: text retrieval 77.6/94.3/97.2, image retrieval 60.7/84.3/90.5. The paper's
    zero-shot figures on Flickr30K are from this model. Hours: not published, not measured here. Command:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe retrieval_coco --checkpoint ALBEF.pth \\
            data.image_root=coco/images data.annotations=coco_train.json \\
            data.eval_annotations=coco_val.json data.test_annotations=coco_test.json
    """
    task = schema.RetrievalConfig(k_test=256)
    return _finetune("retrieval_coco", task, micro_batch=32, epochs=5, learning_rate=1e-5, warmup_steps=0)


def vqa() -> schema.RunConfig:
    """Visual question answering on VQA v2: a 6-layer answer decoder at 384 px, 8 epochs.

    Figure: paper, 14M, test-dev / test-std 75.84 / 76.04, trained on train + val and Visual Genome.
    Hours: not published, not measured here. Command:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe vqa --checkpoint ALBEF.pth \\
            data.image_root=coco/images data.vg_root=visual_genome/images \\
            data.annotations=vqa_train.json,vqa_val.json,vg_qa.json data.test_annotations=vqa_test.json \\
            data.answer_list=answer_list.json
    """
    # In the released code 4 warm-up "epochs" are 400 steps.
    task = schema.VqaConfig(decoder_layers=6, k_test=128)
    return _finetune("vqa", task, micro_batch=32, epochs=8, learning_rate=2e-5, warmup_steps=400)


def nlvr_pretrain() -> schema.RunConfig:
    """Text assignment, NLVR2's extra pretraining: one epoch on the 4M corpus at 256 px.

    Figure: none of its own. Hours: not published, not measured here. Command, on the shards of pretrain_4m:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe nlvr_pretrain --checkpoint ALBEF.pth data.shards=SHARDS

    The recipe nlvr starts from its last checkpoint.
    """
    return schema.RunConfig(
        recipe="nlvr_pretrain",
        output="runs/nlvr_pretrain",
        task=schema.TextAssignmentConfig(),
        data=schema.DataConfig(**RELEASED_LIMITS["text_assignment"]._asdict()),
        optim=schema.OptimConfig(
            learning_rate=2e-5, initial_learning_rate=_WARMUP_RATE, final_learning_rate=1e-5, warmup_samples=100 * 64 * _NUM_GPUS
        ),
        train=schema.TrainConfig(micro_batch_size=64, global_batch_size=64 * _NUM_GPUS, epochs=1),
    )


def nlvr() -> schema.RunConfig:
    """NLVR2, a statement about two images: doubled multimodal layers at 384 px, 10 epochs.

    Figure: paper, 14M, dev / test-P 82.6 / 83.1, after one epoch of text assignment (recipe nlvr_pretrain).
    Hours: not published, not measured here. Command:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe nlvr --checkpoint runs/nlvr_pretrain \\
            data.image_root=nlvr2 data.annotations=nlvr_train.json \\
            data.eval_annotations=nlvr_dev.json data.test_annotations=nlvr_test.json

    A pretraining checkpoint is accepted too; its multimodal layers are doubled.
    """
    task = schema.ClassificationConfig(num_classes=2, num_images=2)
    return _finetune("nlvr", task, micro_batch=16, epochs=10, learning_rate=2e-5, warmup_steps=100)


def snli_ve() -> schema.RunConfig:
    """Visual entailment on SNLI-VE: three classes at 384 px, 5 epochs.

    Figure: paper, 14M, val / test 80.8 / 80.9. Hours: not published, not measured here. Command:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe snli_ve --checkpoint ALBEF.pth \\
            data.image_root=flickr30k/images data.annotations=ve_train.json \\
            data.eval_annotations=ve_dev.json data.test_annotations=ve_test.json
    """
    task = schema.ClassificationConfig(num_classes=3, alpha_ramp_epochs=0.0)  # the released settings start with the full alpha
    return _finetune("snli_ve", task, micro_batch=32, epochs=5, learning_rate=2e-5, warmup_steps=100)


def grounding_refcoco() -> schema.RunConfig:
    """Weakly supervised grounding on RefCOCO+: trained as retrieval at 384 px on whole images, 5 epochs.

    Figure: paper, 14M, val / testA / testB 58.46 / 65.89 / 46.25, by Grad-CAM over detector proposals.
    Hours: not published, not measured here. Command; RefCOCO and RefCOCOg take the same recipe with their own files:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe grounding_refcoco --checkpoint ALBEF.pth \\
            data.image_root=coco/images data.annotations=refcoco+_train.json data.eval_annotations=refcoco+_val.json \\
            data.test_annotations=refcoco+_test.json data.refs=refs.json data.instances=instances.json \\
            data.detections=dets.json
    """
    # Expressions mention positions, so images are not cropped.
    return _finetune(
        "grounding_refcoco",
        schema.RetrievalConfig(),
        micro_batch=32,
        epochs=5,
        learning_rate=1e-5,
        warmup_steps=0,
        limits="grounding",
        crop_scale_min=1.0,
    )


RECIPES = (retrieval_flickr, retrieval_coco, vqa, nlvr_pretrain, nlvr, snli_ve, grounding_refcoco)
