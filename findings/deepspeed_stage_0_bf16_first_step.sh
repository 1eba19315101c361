#!/usr/bin/env bash
# DeepSpeed 0.19.8, ZeRO stage 0, bf16, torch's AdamW.
#
# Expected: with constant gradients AdamW's bias correction makes the first step as long as the learning rate, at every stage and in
# every precision.
# Seen: at stage 0 in bf16 the first step is 0.744 learning rates long. The engine takes an optimizer step with zero gradients while it
# starts, so the first step of training is corrected as AdamW's second. fp32 and the stages 1 and 2 are right.
source "$(dirname "$0")/environment.sh"
environment torch==2.14.1 deepspeed==0.19.8

cat >"$work/first_step.py" <<'PYTHON'
import deepspeed
import torch
from torch import nn


def first_step(stage, bf16):
    layer = nn.Linear(8, 8, bias=False)
    nn.init.constant_(layer.weight, 0.25)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.0)
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
    }
    engine, wrapper, *_ = deepspeed.initialize(model=layer, optimizer=optimizer, config=config)
    engine.backward(engine(torch.ones(4, 8, dtype=torch.bfloat16 if bf16 else torch.float32)).float().sum())
    engine.step()
    # The fp32 weights, wherever this stage keeps them.
    flat = getattr(wrapper, "fp32_groups_flat_partition", None) or getattr(wrapper, "single_partition_of_fp32_groups", None)
    weights = flat[0] if flat else wrapper.param_groups[0]["params"][0]
    return float((0.25 - weights.detach().float()).mean()) / 1e-3


for stage in (0, 1, 2):
    for precision in ("fp32", "bf16"):
        print(f"result: stage {stage} {precision}: {first_step(stage, precision == 'bf16'):.3f} learning rates")
PYTHON

deepspeed_rank "$work/first_step.py" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: stage 0 fp32: 1.000 learning rates
result: stage 0 bf16: 0.744 learning rates
result: stage 1 fp32: 1.000 learning rates
result: stage 1 bf16: 1.000 learning rates
result: stage 2 fp32: 1.000 learning rates
result: stage 2 bf16: 1.000 learning rates
SEEN
