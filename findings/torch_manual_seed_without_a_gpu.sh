#!/usr/bin/env bash
# torch 2.14.1, torch.manual_seed on a machine without an accelerator.
#
# Expected: seeding the CPU's generator costs about a microsecond, wherever it is called, as torch.default_generator.manual_seed does.
# Seen: each call also keeps the seed for accelerators that might be initialised later, and formats the whole Python stack three times to
# say where it was given. Below 200 frames a call takes about a thousand times as long; seeding every module of a model by itself adds up.
source "$(dirname "$0")/environment.sh"
environment torch==2.14.1

cat >"$work/seeds.py" <<'PYTHON'
import time
import traceback
from unittest import mock

import torch

CALLS = 200


def below(frames, function):
    return function() if frames == 0 else below(frames - 1, function)


def microseconds(seed):
    start = time.process_time()
    for number in range(CALLS):
        seed(number)
    return 1e6 * (time.process_time() - start) / CALLS


assert not torch.cuda.is_available(), "a GPU is there: run it where there is none"
for frames in (0, 50, 200):
    found = below(frames, lambda: microseconds(torch.manual_seed))
    plain = below(frames, lambda: microseconds(torch.default_generator.manual_seed))
    print(f"below {frames} frames: torch.manual_seed {found:.0f} us, torch.default_generator.manual_seed {plain:.1f} us")
    slower = found > 50 * plain
with mock.patch.object(traceback, "format_stack", wraps=traceback.format_stack) as formatted:
    torch.manual_seed(1)
print(f"result: the stack is formatted {formatted.call_count} times in one call; under 200 frames over 50 times as slow: {slower}")
PYTHON

python "$work/seeds.py" | tee "$work/printed"
grep '^result' "$work/printed" >"$work/seen"
expect "$work/seen" <<'SEEN'
result: the stack is formatted 3 times in one call; under 200 frames over 50 times as slow: True
SEEN
