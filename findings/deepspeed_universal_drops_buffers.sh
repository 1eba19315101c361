#!/usr/bin/env bash
# DeepSpeed 0.19.8, universal checkpoints (ds_to_universal, load_universal), ZeRO stage 2.
#
# Expected: a checkpoint converted to the universal form restores the model as the unconverted one does: parameters, frozen parameters and
# buffers (running statistics, queues, averages of weights).
# Seen: load_checkpoint succeeds and restores the trained parameters only. Frozen parameters and buffers keep the values of the new
# model, without a warning. The same checkpoint without the conversion restores all three.
source "$(dirname "$0")/environment.sh"
environment torch==2.14.1 deepspeed==0.19.8

cat >"$work/universal.py" <<'PYTHON'
import subprocess
import sys

import deepspeed
import torch
from torch import nn

folder = sys.argv[1]


class Model(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.trained = nn.Parameter(torch.full((4, 4), value))
        self.frozen = nn.Parameter(torch.full((4, 4), value), requires_grad=False)
        self.register_buffer("total", torch.full((4,), value))

    def forward(self, inputs):
        return inputs @ self.frozen @ self.trained + self.total


def start(value, universal):
    model = Model(value)
    optimizer = torch.optim.AdamW([model.trained], lr=1e-3)
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": 2},
        "checkpoint": {"load_universal": universal},
    }
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


engine = start(1.0, universal=False)
engine.backward(engine(torch.ones(4, 4)).square().sum())
engine.step()
engine.save_checkpoint(folder, tag="saved")
command = ["-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
subprocess.run(
    [sys.executable, *command, "--input_folder", f"{folder}/saved", "--output_folder", f"{folder}/universal"],
    check=True,
    stdout=subprocess.DEVNULL,
)
for tag in ("saved", "universal"):
    loaded = start(7.0, universal=tag == "universal")
    assert loaded.load_checkpoint(folder, tag=tag)[0]
    model = loaded.module
    first = {name: float(getattr(model, name).detach().flatten()[0]) for name in ("trained", "frozen", "total")}
    print(f"result: saved with 1, loaded into 7 from {tag}:", *(f"{name} {value:.3f}" for name, value in first.items()))
PYTHON

deepspeed_rank "$work/universal.py" "$work/checkpoints" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: saved with 1, loaded into 7 from saved: trained 0.999 frozen 1.000 total 1.000
result: saved with 1, loaded into 7 from universal: trained 0.999 frozen 7.000 total 7.000
SEEN
