#!/usr/bin/env bash
# Weights & Biases 0.31.0, offline mode, a run resumed by its id with resume="must".
#
# Expected: "must" goes on with the run of that id, or fails where it cannot: the second start continues at step 3, or raises.
# Seen: the second start makes a second folder, says resumed False and counts from step 0 again, without an error, although the first
# folder lies beside it. Curves of a job that was requeued then start at 0 once more, unless step= is given with each call.
source "$(dirname "$0")/environment.sh"
environment wandb==0.31.0

cat >"$work/train.py" <<'PYTHON'
import os

import wandb

run = wandb.init(project="pretraining", id="albef01", resume="must" if os.path.exists("wandb") else None)
print(f"result: resumed {run.resumed}, first step {run.step}", flush=True)
for step in range(3):
    run.log({"loss": 1.0})
run.finish()
PYTHON

cd "$work"
for _ in 1 2; do WANDB_MODE=offline WANDB_SILENT=true python train.py 2>>messages; sleep 1.1; done | grep '^result' | tee seen
echo "result: $(ls -d wandb/offline-run-* | wc -l) folders" | tee -a seen
expect seen <<'SEEN'
result: resumed False, first step 0
result: resumed False, first step 0
result: 2 folders
SEEN
