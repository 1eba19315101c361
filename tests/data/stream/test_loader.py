"""Loader processes end without output, even when busy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.data.conftest import picture

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import sys
from itertools import islice
from albef_ds.config.schema import DataConfig, RunConfig, TrainConfig
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share

data = DataConfig(shards=sys.argv[1], num_workers=2, augment_device="model")
config = RunConfig(data=data, train=TrainConfig(seed=0, micro_batch_size=32, global_batch_size=32))
assert config.model.vision.image_size == 256
stream = ImageTextStream(config, Share(start_method="spawn"))
print(sum(len(batch) for batch in islice(stream, 3)), flush=True)
stream.close()
"""


def test_spawned_processes_that_are_ended_while_they_work_do_not_abort(make_corpus: Any) -> None:
    folder = make_corpus(8, per_shard=8, broken={number: {"image": picture(number, 640, 480, "JPEG")} for number in range(8)})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and done.stdout.split() == ["96"], done.stderr
    assert not any(word in done.stderr for word in ("terminate called", "Aborted", "Traceback")), done.stderr
