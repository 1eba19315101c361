#!/usr/bin/env bash
# DeepSpeed 0.19.8, ZeRO stage 3: what bounds the parameters that are whole at a time.
#
# Expected: `stage3_max_live_parameters`, described as the most parameters that are whole on a GPU before they are released, bounds
# them: ten layers of 10,000 parameters with a bound of 10,000 leave one or two layers whole.
# Seen: all 100,000 stay whole with a bound of 10,000 as with the default of a billion. `stage3_max_reuse_distance` decides: with 0 every
# layer is released after its use. Memory that was planned by the first setting is not there.
source "$(dirname "$0")/environment.sh"
environment torch==2.14.1 deepspeed==0.19.8

cat >"$work/whole.py" <<'PYTHON'
import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import nn


def most_whole(**settings):
    """The most parameters that are whole after a layer's forward pass, in the last of four steps."""
    model = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(10)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0, **settings}
    config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": zero}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    counts = []

    def count(*_):
        counts.append(sum(p.ds_numel for p in model.parameters() if p.ds_status == ZeroParamStatus.AVAILABLE))

    for layer in model:
        layer.register_forward_hook(count)
    for _ in range(4):
        counts.clear()
        engine.backward(engine(torch.ones(4, 100)).square().sum())
        engine.step()
    return max(counts)


print(f"result: defaults: {most_whole()} of 100000 parameters whole")
print(f"result: stage3_max_live_parameters 10000: {most_whole(stage3_max_live_parameters=10_000)}")
print(f"result: stage3_max_reuse_distance 0: {most_whole(stage3_max_reuse_distance=0)}")
PYTHON

deepspeed_rank "$work/whole.py" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: defaults: 100000 of 100000 parameters whole
result: stage3_max_live_parameters 10000: 100000
result: stage3_max_reuse_distance 0: 0
SEEN
