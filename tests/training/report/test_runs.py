"""Tests the list of runs and the page about a run, both from the run's folder."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.common.run_files import METRICS_NAME, TENSORBOARD_FOLDER
from albef_ds.config import files
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.training.report.charts import MOST_POINTS, Curve, line_chart, ticks
from albef_ds.training.report.page import build_page
from albef_ds.training.report.state import find_runs, state_of
from albef_ds.training.run_log import RunLogger

SCORES = {"retrieval/i2t_r1": 40.0, "retrieval/i2t_r5": 60.0, "retrieval/mean_recall_itm": 55.5}


def make_run(
    folder: Path, steps: int, *, saved: tuple[int, ...] = (), config: RunConfig | None = None, score: bool = True
) -> Path:
    """Creates a run's folder as the trainer leaves it after `steps` of 20 steps, without training."""
    files.save(config or replace(get_recipe("debug"), output=str(folder)), folder / "config.json")
    logger = RunLogger(folder, True, False, 20)
    for step in range(1, steps + 1):
        values = {"loss": 9.0 / step, "loss_itc": 2.0, "epoch": step / 10, "learning_rate": 1e-4}
        logger.step(step, values, samples=8, write=True)
        if score and step in (5, steps):
            logger.event("evaluation", {**SCORES, "retrieval/i2t_r1": 30.0 + step})
    logger.close()
    for step in saved:
        path = folder / "checkpoints" / f"step-{step:07d}"
        path.mkdir(parents=True)
        (path / "state.json").write_text(json.dumps({"step": step, "seconds": 12.0}))
        (path / "complete.json").write_text("{}")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path / "a" / "finished", 20, saved=(10, 20))
    make_run(tmp_path / "stopped", 12, saved=(10,))
    make_run(tmp_path / "new", 3, score=False)
    (tmp_path / "notes").mkdir()
    return tmp_path


LATER = 1e6
"""Seconds, long after every log line."""


def test_a_state_is_told_from_the_folder_alone(runs: Path) -> None:
    now = time.time()
    states = {path.name: state_of(path, now + LATER) for path in find_runs(runs)}
    assert {name: found.state for name, found in states.items()} == {
        "finished": "finished",
        "stopped": "stopped",
        "new": "broken off",
    }
    assert state_of(runs / "new", now).state == "running" and state_of(runs / "a" / "finished", now).state == "finished"
    stopped = states["stopped"]
    assert (stopped.step, stopped.total_steps, stopped.loss, stopped.checkpoints) == (12, 20, 0.75, 1)
    assert (stopped.metric, stopped.value) == ("retrieval/mean_recall_itm", 55.5)
    assert states["new"].metric is None and states["finished"].images_per_second


def test_epochs_and_minutes_end_a_run_too(tmp_path: Path) -> None:
    debug = get_recipe("debug")
    epochs = replace(debug, train=replace(debug.train, max_steps=0, epochs=1.2))
    minutes = replace(debug, train=replace(debug.train, max_steps=0, epochs=30.0, max_minutes=0.2))
    for number, (config, steps, expected) in enumerate(
        (
            (epochs, 12, "finished"),
            (epochs, 8, "stopped"),
            (minutes, 5, "finished"),
            (replace(minutes, train=epochs.train), 5, "stopped"),
        )
    ):
        folder = make_run(tmp_path / str(number), steps, saved=(steps,), config=config)
        assert state_of(folder, time.time() + LATER).state == expected


def test_the_list_has_a_line_per_run_and_json_for_programs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("run ")
    assert "finished" in lines[1] and "20/20" in lines[1] and "retrieval/mean_recall_itm 55.50" in lines[1]
    assert main(["runs", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["step"] for entry in found] == [20, 3, 12] and found[1]["value"] is None


def test_a_damaged_run_hides_no_other(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "new" / "config.json").write_text("{")
    assert main(["runs", str(runs)]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3 and "left out" in printed.err and "new/config.json" in printed.err


class Page(HTMLParser):
    """Collects what a page loads, its words, and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]
        if tag not in ("meta", "img", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


def test_the_page_has_curves_scores_images_data_and_settings_and_loads_nothing(runs: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    run = runs / "a" / "finished"
    with SummaryWriter(str(run / TENSORBOARD_FOLDER)) as board:
        for step in (5, 20):
            board.add_image("evaluation/retrieval_grid", torch.rand(3, 8, 8), step)
    (run / "metrics.json").write_text(
        json.dumps({"checkpoint": "step-0000020", "weights": "student", "splits": {"test": {"retrieval/i2t_r1": 47.25}}})
    )
    (run / "failures_a_#1 & 2.html").write_text("")
    linked = build_page(run)
    (run / "failures_a_#1 & 2.html").unlink()
    assert '<a href="failures_a_%231%20%26%202.html">What retrieval got wrong on a_#1 &amp; 2</a>' in linked
    page = Page(build_page(run))
    assert len(page.loaded) == 1 and page.loaded[0].startswith("data:image/png;base64,")
    for words in (
        "finished",
        "The same in every step: loss_itc 2",
        "i2t R@1",
        "47.25",
        "retrieval grid, at step 20",
        "engine.kind",
    ):
        assert words in page.words, words
    assert "<script" not in build_page(run)


def test_fine_tuning_and_unfinished_runs_get_a_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vqa = make_run(tmp_path / "vqa <b>", 4, config=get_recipe("vqa"), score=False)
    with open(vqa / METRICS_NAME, "a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')  # is being written
    assert main(["report", str(vqa), "--output", str(tmp_path / "page.html")]) == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "has not been evaluated" in page.words and "task.decoder_layers" not in page.loaded and "vqa <b>" in page.words
    empty = tmp_path / "empty"
    files.save(get_recipe("debug"), empty / "config.json")
    (empty / "checkpoints").mkdir()
    assert "Nothing has been logged yet" in Page(build_page(empty)).words


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert main(["runs", str(tmp_path)]) == 0 and "no run below" in capsys.readouterr().out


def test_a_chart_shows_a_single_point_a_flat_line_and_a_long_one() -> None:
    assert line_chart("nothing", [Curve("a", [], [])]) == ""
    for line in (Curve("a", [7], [1.0]), Curve("a", [1, 2], [0.0, 0.0])):
        assert line_chart("one", [line]).count("<polyline") == 1
    long = line_chart("long", [Curve("a", range(10 * MOST_POINTS), [float(n) for n in range(10 * MOST_POINTS)])])
    assert long.count(",") < 2 * MOST_POINTS and "step 5,999" in long
    assert ticks(0.12, 0.98) == pytest.approx([0.2, 0.4, 0.6, 0.8]) and len(ticks(-3.0, 8000.0)) >= 3


def test_runs_are_compared_on_one_page(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(get_recipe("debug"), output="other")
    other = make_run(tmp_path / "<other>", 8, config=replace(config, train=replace(config.train, seed=77)))
    page = tmp_path / "page.html"
    assert main(["report", str(runs / "a" / "finished"), str(other), str(runs / "new"), "--output", str(page)]) == 0
    text = page.read_text()
    assert text.count("<polyline") == 3 * text.count('<svg class="chart"') and "<other>" not in text and "&lt;other&gt;" in text
    assert (
        "<tr><td><code>train.seed</code></td><td>42</td><td>77</td><td>42</td></tr>" in text and "<code>output</code>" not in text
    )
    assert "<td><code>retrieval/i2t_r1</code></td><td>50</td><td>38</td><td>-</td>" in text and "at step 20, 8, -" in text
    capsys.readouterr()
    for arguments, words in (([other, other], "a run is given twice"), ([other] * 5, "5 runs cannot be compared")):
        assert main(["report", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err


def test_the_list_is_watched_until_ctrl_c(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        make_run(runs / "later", 4)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("albef_ds.cli.runs.time.sleep", sleep)
    assert main(["runs", str(runs), "--watch", "7"]) == 130
    said = capsys.readouterr().out
    assert slept == [7, 7] and said.count("finished") >= 2 and said.count("later") == 1 and "\x1b" not in said
    assert main(["runs", str(runs), "--watch", "--json"]) == 2
