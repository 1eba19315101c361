"""Loss bands: what is inside, what is outside, and the command that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.config import files
from albef_ds.config.recipes import RECIPES
from albef_ds.config.schema import RunConfig
from albef_ds.training.loss_band import Band, BandMonitor, Point, band_of, make_band, read_curve


def write_run(folder: Path, losses: list[float], recipe: str = "debug") -> Path:
    folder.mkdir()
    files.save(RunConfig(recipe=recipe), folder / "config.json")
    lines = [{"kind": "step", "step": 10 * n, "epoch": n / 10, "loss": loss} for n, loss in enumerate(losses, start=1)]
    lines.insert(2, {"kind": "evaluation", "step": 20, "loss": 99.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "step", "st')
    return folder


def test_a_curve_is_the_steps_of_the_log_the_later_of_two_counting(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [5.0, 4.0])
    with open(run / "metrics.jsonl", "a") as file:
        file.write("\n")
    text = (run / "metrics.jsonl").read_text().replace('{"kind": "step", "st\n', "")
    (run / "metrics.jsonl").write_text(text + '{"kind": "step", "step": 20, "epoch": 0.2, "loss": 4.5}\n')
    assert read_curve(run) == [Point(10, 0.1, 5.0), Point(20, 0.2, 4.5)]


def test_a_band_holds_the_runs_it_was_made_of_and_little_more() -> None:
    curves = [[Point(n, n / 10, 10.0 - n + shift) for n in range(1, 9)] for shift in (0.0, 0.3)]
    band = make_band(curves, "debug", "loss", 0.05, {})
    for curve in curves:
        monitor = BandMonitor(band)
        assert [monitor.look(point) for point in curve] == [""] * 8 and not monitor.left
    low, high = band.at(0.45) or (0.0, 0.0)
    assert low == pytest.approx(0.95 * 4.5, rel=0.02) and high == pytest.approx(1.05 * 6.8, rel=0.02)
    assert band.at(0.05) is None and band.at(0.9) is None


def test_a_run_is_reported_once_when_it_leaves_and_once_when_it_is_back() -> None:
    band = Band("debug", "loss", [0.0, 10.0], [1.0, 1.0], [2.0, 2.0])
    monitor = BandMonitor(band)
    losses = [1.5, 3.0, 1.5, 3.0, 3.0, 3.0, 3.0, 1.5, 1.5]
    said = [monitor.look(Point(step, step / 10, loss)) for step, loss in enumerate(losses)]
    assert [bool(line) for line in said] == [False, False, False, False, False, True, False, True, False]
    assert "step 5: loss 3 is above the band of recipe debug (1 to 2 at epoch 0.50)" in said[5]
    assert "is within" in said[7] and [point.step for point in monitor.left] == [5]


def test_the_command_compares_runs_and_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path / "good", [6.0, 5.0, 4.0, 3.0, 3.0, 3.0])
    again = write_run(tmp_path / "again", [6.0, 5.05, 4.0, 3.0, 3.0, 3.0])
    bad = write_run(tmp_path / "bad", [6.0, 6.0, 6.0, 6.0, 6.0, 6.0])
    band = tmp_path / "band.json"
    assert main(["compare-curve", str(good), "--against", str(again)]) == 0
    assert "6 log lines at the same steps: largest relative difference 0.0099, at step 20" in capsys.readouterr().out
    assert main(["compare-curve", str(good), "--against", str(again), "--tolerance", "0.001"]) == 1
    assert main(["compare-curve", str(good), str(again), "--write-band", str(band)]) == 0
    assert main(["compare-curve", str(good), "--against", str(band)]) == 0
    assert main(["compare-curve", str(bad), "--against", str(band)]) == 1
    assert "is above the band" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare-curve", "RUN"], "recipe debug of RUN: give --against"),
        (["compare-curve", "RUN", "--against", "RUN/config.json"], "is not a loss band"),
        (["compare-curve", "/no/such/run"], "is not the log of a run"),
        (["compare-curve", "RUN", "--loss", "loss_xyz"], "has no step with loss_xyz"),
        (["compare-curve", "RUN", "RUN"], "use --against"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    run = str(write_run(tmp_path / "run", [5.0, 4.0]))
    assert main([argument.replace("RUN", run) for argument in arguments]) == 2
    assert message.replace("RUN", run) in capsys.readouterr().err


def test_every_shipped_band_is_of_a_recipe_and_can_be_read() -> None:
    found = [name for name in RECIPES if band_of(name)]
    assert "demo_emoji" in found
    for name in found:
        path = band_of(name)
        assert path is not None and Band.load(path).recipe == name
