"""Recipes of the paper's two pretraining runs (Li et al., arXiv 2107.07651, sections 3.4, 4) and of one with similar pairs."""

from __future__ import annotations

from dataclasses import replace

from albef_ds.config.data import RELEASED_LIMITS
from albef_ds.config.schema import DataConfig, PretrainConfig, RunConfig

_DATA = DataConfig(**RELEASED_LIMITS["pretrain"]._asdict())


def pretrain_4m() -> RunConfig:
    """ALBEF base on 4M images (COCO, Visual Genome, SBU, CC3M), 30 epochs at 256 px.

    Figure: Flickr30K zero-shot after fine-tuning on COCO at 384 px (paper, R@1/5/10): text retrieval 90.5/98.8/99.7,
    image retrieval 76.8/93.7/96.7. The pretraining checkpoint itself: R@1 84.9 and 68.18.
    Hours: 48 to 96 on 8 x A100 in public reports of the released code.
    Command, with shards written by `albef-data`:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_4m data.shards=SHARDS \\
            init.visual_encoder=deit_base_patch16_224.safetensors init.text_encoder=bert-base-uncased
    """
    return RunConfig(recipe="pretrain_4m", output="runs/pretrain_4m", data=_DATA)


def pretrain_14m() -> RunConfig:
    """ALBEF base on 14M images (the 4M set and CC12M), 30 epochs at 256 px.

    Figure: fine-tuned on COCO (paper, R@1/5/10): text retrieval 77.6/94.3/97.2, image retrieval 60.7/84.3/90.5;
    on Flickr30K 95.9/99.8/100 and 85.6/97.5/98.9. The pretraining checkpoint itself, on Flickr30K: R@1 88.5 and 75.92.
    Hours: 168 to 192 on 8 x A100-40G in public reports of the released code.
    Command, with shards written by `albef-data`:

        deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_14m data.shards=SHARDS \\
            init.visual_encoder=deit_base_patch16_224.safetensors init.text_encoder=bert-base-uncased
    """
    return RunConfig(recipe="pretrain_14m", output="runs/pretrain_14m", data=_DATA)


def pretrain_4m_grouped() -> RunConfig:
    """ALBEF base on 4M images with similar pairs in every micro-batch (GRIT-VLP, arXiv 2208.04060), not yet run.

    Half of the tokens are masked, and the consistency of both directions of ITC is added with the weight 0.2, as in GRIT-VLP's
    code, which has no momentum model and no queue; here both stay.

    Figure: none of ours. Hours: as `pretrain_4m`. Commands, with a first checkpoint of any ALBEF in CHECKPOINT:

        albef-data embed SHARDS --model CHECKPOINT
        albef-data group SHARDS
        deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_4m_grouped data.shards=SHARDS \\
            init.visual_encoder=deit_base_patch16_224.safetensors init.text_encoder=bert-base-uncased
    """
    config = pretrain_4m()
    groups = replace(config.data, group_order="groups", group_size=config.train.micro_batch_size, mlm_probability=0.5)
    task = PretrainConfig(itc_consistency=0.2)
    return replace(config, recipe="pretrain_4m_grouped", output="runs/pretrain_4m_grouped", data=groups, task=task)


RECIPES = (pretrain_4m, pretrain_14m, pretrain_4m_grouped)
