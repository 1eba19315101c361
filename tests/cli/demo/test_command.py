"""`albef-ds demo` from the command line to the page, with a tiny model, and its error messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albef_ds.cli.demo.command import main
from albef_ds.common.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
TINY = [
    "init.text_encoder=scratch",
    "model.text.width=16",
    "model.text.num_layers=1",
    "model.text.num_fusion_layers=1",
    "model.text.num_heads=2",
    "model.text.intermediate_width=16",
    "model.vision.image_size=16",
    "model.vision.width=16",
    "model.vision.depth=1",
    "model.vision.num_heads=2",
    "model.embed_dim=8",
    "train.global_batch_size=8",
    "data.num_workers=0",
    "train.max_steps=3",
    "train.log_every=1",
]


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_demo_trains_on_two_ranks_and_shows_what_was_learned(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "older").touch()
    command = [sys.executable, "-m", "albef_ds.cli.main", "demo", "--ranks", "2", "--minutes", "5"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "demo"), *TINY], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    output = tmp_path / "demo-2"
    assert f"{tmp_path / 'demo'} is in use: this run is written to {output}" in done.stdout
    assert "test: 300 images" in done.stdout and "flags: 267 images" in done.stdout and str(output / "demo.html") in done.stdout
    document = json.loads((output / "demo_metrics.json").read_text())
    assert document["training"]["step"] == 3 and document["training"]["world_size"] == 2
    assert set(document["metrics"]) == {"val", "test", "flags"}
    assert document["metrics"]["test"]["retrieval/t2i_r10_chance"] == pytest.approx(100 / 30)
    assert (output / "demo.html").stat().st_size > 100_000 and (output / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "demo").iterdir()) == [tmp_path / "demo" / "older"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "give a number above 0"),
        (["--minutes", "soon"], "soon cannot be used"),
        (["--ranks", "0"], "give auto or a number from 1"),
        (["--ranks", "3", *TINY], "train.global_batch_size 8 is not a multiple"),
        (["model.text.hight=3"], "there is no setting model.text.hight"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*arguments, "--output", str(tmp_path / "demo")])
    assert not (tmp_path / "demo" / "metrics.jsonl").exists()
