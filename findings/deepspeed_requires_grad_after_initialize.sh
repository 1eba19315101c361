#!/usr/bin/env bash
# DeepSpeed 0.19.8, ZeRO stages 0 to 3, a parameter whose requires_grad changes after deepspeed.initialize.
#
# Expected: as with torch's optimizers, a parameter that is unfrozen is trained from then on (it was handed to the optimizer), and one
# that is frozen stays where it is; or an error says that this has to be decided before.
# Seen: that holds at stage 0 only. At stages 1, 2 and 3 an unfrozen parameter is never trained, and a frozen one goes on moving by
# AdamW's moments. Neither raises nor warns.
source "$(dirname "$0")/environment.sh"
environment torch==2.14.1 deepspeed==0.19.8

cat >"$work/freezing.py" <<'PYTHON'
import deepspeed
import torch
from torch import nn


def moved(stage, change):
    """The first weight's way in three steps after `change`, which follows three steps before it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    weight.requires_grad_(change == "frozen")
    config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": stage}}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)

    def train_and_read():
        for _ in range(3):
            engine.backward(engine(torch.ones(4, 8)).square().sum())
            engine.step()
        with deepspeed.zero.GatheredParameters([weight], enabled=stage == 3):
            return weight.detach().clone()

    before = train_and_read()
    weight.requires_grad_(change == "unfrozen")
    return "moves" if bool((train_and_read() != before).any()) else "stays"


for stage in (0, 1, 2, 3):
    print(f"result: stage {stage}: unfrozen {moved(stage, 'unfrozen')}, frozen {moved(stage, 'frozen')}")
PYTHON

deepspeed_rank "$work/freezing.py" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: stage 0: unfrozen moves, frozen stays
result: stage 1: unfrozen stays, frozen moves
result: stage 2: unfrozen stays, frozen moves
result: stage 3: unfrozen stays, frozen moves
SEEN
