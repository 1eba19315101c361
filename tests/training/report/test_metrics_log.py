"""Reads a run's log as the run wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.common.errors import DataError
from albef_ds.training.report.metrics_log import MetricsLog
from albef_ds.training.run_log import RunLogger


def test_logger_and_history_agree_and_repeated_steps_count_as_last_written(tmp_path: Path) -> None:
    for losses in ([3.0, 2.0, 1.5], [1.0]):
        logger = RunLogger(tmp_path, True, False, 10)
        for number, loss in enumerate(losses):
            step = number + 1 if len(losses) > 1 else 3
            logger.step(step, {"loss_itc": loss, "grad_norm": float("nan")}, samples=4, write=True)
        logger.event("evaluation", {"retrieval/i2t_r1": 5.0})
        logger.close()
    history = MetricsLog.read(tmp_path / "metrics.jsonl")
    assert history.series("loss_itc") == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert history.series("grad_norm") == ([], []) and history.last("loss_itc") == 1.0 and history.last("nothing") is None


def test_missing_log_or_foreign_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read"):
        MetricsLog.read(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "step", "step": 1}) + "\nhello\n{")
    with pytest.raises(DataError, match=r"metrics\.jsonl line 2 is not a record"):
        MetricsLog.read(tmp_path / "metrics.jsonl")
