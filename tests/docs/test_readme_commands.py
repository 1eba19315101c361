"""Every command of the README runs: a command without a row in the table, or a row without a command, fails."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from albef_ds.cli.demo import command
from albef_ds.cli.main import main
from albef_ds.launch.slurm.site import Site
from data_tools.cli import main as data_main
from tests.checkpoint.formats.released_files import HEADS
from tests.data_tools.scenes.tiny import tiny_scenes
from tests.docs.readme_world import CAPTIONS, ONE_STEP, TINY_ENCODERS, write_world
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import slurm_cluster as slurm_cluster  # a fixture

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ["deepspeed", "--num_gpus", "8", "albef_ds/train.py"]
SMALL_SCENES = ("model.vision.width=16", "model.vision.num_heads=2", "model.text.width=16", "model.text.num_heads=2")
SCRATCH = ("init.visual_encoder=scratch", "init.text_encoder=scratch")


def commands(markdown: str) -> list[str]:
    """The commands of the page's bash blocks: continued lines joined, comments cut off, spaces made single."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("#")[0].split()) for line in lines if line.partition("#")[0].strip()]


README = commands((ROOT / "README.md").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Run:
    """How the test runs a command: by `how`, with `replace`d words and `more` behind them."""

    how: Callable[[Sequence[str]], int]
    replace: tuple[tuple[str, str], ...] = ()
    more: tuple[str, ...] = ()
    said: str = ""
    """What standard output must hold."""


def make(words: Sequence[str]) -> int:
    """Print what make would do; the demonstration, the tests and the site have tests of their own."""
    done = subprocess.run([*words, "--dry-run", f"VENV={ROOT}/.venv"], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    return done.returncode


def albef_ds(words: Sequence[str]) -> int:
    """In this process."""
    assert words[0] == "albef-ds"
    return main(words[1:])


def albef_ds_mended(words: Sequence[str]) -> int:
    """As `albef_ds`; on the test's machine something may have to be mended."""
    code = albef_ds(words)
    assert code in (0, 1)
    print("looked at")
    return 0


def albef_data(words: Sequence[str]) -> int:
    """In this process."""
    assert words[0] == "albef-data"
    return data_main(words[1:])


def launched(words: Sequence[str]) -> int:
    """What the deepspeed launcher starts on every rank, on one."""
    assert list(words[:4]) == LAUNCH
    return main(["train", *words[4:]])


def extra(words: Sequence[str]) -> int:
    """The extra exists; tests/packaging installs wheels."""
    assert words[:2] == ["pip", "install"] and words[2].startswith(".[")
    named = words[2].removeprefix(".[").rstrip("]")
    assert f"\n{named} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return 0


def served(words: Sequence[str]) -> int:
    """In a process of its own, until the page and a search are answered."""
    pytest.importorskip("fastapi")
    command = [sys.executable, "-m", "albef_ds.cli.main", *words[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[1]
            assert b"Search and ask" in urllib.request.urlopen(address).read()
            body = json.dumps({"terms": [{"text": "a dog"}]}).encode()
            search = urllib.request.Request(f"{address}api/search", body, {"Content-Type": "application/json"})
            while json.load(urllib.request.urlopen(f"{address}api/status"))["pictures"] == 0:
                time.sleep(0.05)
            assert len(json.load(urllib.request.urlopen(search))["hits"]) == len(CAPTIONS)
        finally:
            process.send_signal(signal.SIGINT)
    return process.returncode


def planned_demo(words: Sequence[str]) -> int:
    """All but the training, which `tests/demo` runs."""
    assert words[:2] == ["albef-ds", "demo"]
    arguments = command._parser().parse_intermixed_args(words[2:])
    config, _, _ = command._plan(arguments)
    assert config.task.alpha == 0.2 and arguments.output == "runs/alpha"  # type: ignore[union-attr]
    print(f"{config.train.max_minutes:g} minutes")
    return 0


def copied(words: Sequence[str]) -> int:
    """`cp` below the test's folder; the copy is read as a site file."""
    assert words[0] == "cp"
    Path("slurm").mkdir()
    shutil.copy(ROOT / words[1], words[2])
    Site.load(Path(words[2]))
    return 0


RUNS: dict[str, Run] = {
    "make demo": Run(make, said="albef-ds demo"),
    "make test": Run(make, said="pytest"),
    "albef-ds doctor": Run(albef_ds_mended, said="looked at"),
    'albef-ds search --model runs/demo --images FOLDER --text "red apple"': Run(
        albef_ds, replace=(("red apple", "red ball"),), said="written: search.html"
    ),
    "albef-ds demo --minutes 20 --output runs/alpha task.alpha=0.2": Run(planned_demo, said="20 minutes"),
    "albef-ds runs": Run(albef_ds, said="alpha"),
    "albef-ds report runs/alpha": Run(albef_ds, said="report.html"),
    "albef-ds scenes SCENES --scale 0.05": Run(
        albef_ds, replace=(("0.05", "0.002"), ("SCENES", "S")), said="highest possible scores of a model"
    ),
    "albef-ds train --recipe scenes_pretrain data.shards=SCENES/pretrain/train data.vocab_file=SCENES/vocab.txt": Run(
        albef_ds, more=(*SMALL_SCENES, *ONE_STEP)
    ),
    "albef-ds config --recipe scenes_pretrain": Run(albef_ds, said="train.epochs"),
    "albef-data build --work work --out corpus --samples-per-shard 10000 --preset cc12m "
    "--source pairs=img2dataset:/data/pairs": Run(
        albef_data,
        replace=(("corpus", "built"), ("pairs=img2dataset:/data/pairs", "pairs=img2dataset:pairs")),
        more=("--workers", "1"),
    ),
    "albef-ds plan --recipe pretrain_14m --preset 32x80": Run(albef_ds, said="engine.stage"),
    "albef-ds plan --recipe pretrain_14m --gpus 64 --throughput --hardware h100 train.micro_batch_size=8": Run(
        albef_ds, said="images"
    ),
    "cp slurm/site.env.example slurm/site.env": Run(copied),
    "deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_4m data.shards=corpus --resume auto "
    "init.visual_encoder=deit_base_patch16_224.safetensors init.text_encoder=bert-base-uncased": Run(
        launched, more=(*TINY_ENCODERS, *ONE_STEP, *SCRATCH)
    ),
    "pip install '.[serve]'": Run(extra),
    "albef-ds serve --model ALBEF.pth --images photos": Run(served, replace=(("ALBEF.pth", "albef"),), more=("--port", "0")),
    "albef-ds inspect ALBEF.pth": Run(albef_ds, more=HEADS, said="retrieval"),
    'albef-ds search --model ALBEF.pth --images photos --text "a dog on a beach"': Run(
        albef_ds, replace=(("ALBEF.pth", "albef"),), said="written: search.html"
    ),
    'albef-ds ground --model ALBEF.pth --image photos/1.jpg --text "the dog"': Run(albef_ds, replace=(("ALBEF.pth", "albef"),)),
    "albef-ds convert ALBEF.pth albef --to folder": Run(
        albef_ds, replace=(("albef", "converted"),), more=HEADS, said="read back and equal"
    ),
    "deepspeed --num_gpus 8 albef_ds/train.py --recipe retrieval_flickr --checkpoint albef data.image_root=photos "
    "data.annotations=train.json data.eval_annotations=val.json data.test_annotations=test.json": Run(
        launched, more=(*TINY_ENCODERS, "model.text.vocab_size=28", "data.vocab_file=words.txt", *ONE_STEP, "--output=runs/tuned")
    ),
    "albef-ds evaluate runs/retrieval_flickr": Run(
        albef_ds, more=("data.image_root=photos", "data.test_annotations=test.json", "--output", "scores"), said="recall"
    ),
}
"""Each command, and what the test puts in its place where the README's needs data, GPUs or hours."""

SUBMIT = next(command for command in README if command.startswith("albef-ds submit"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the commands run in."""
    folder = tmp_path_factory.mktemp("readme")
    write_world(folder)
    tiny_scenes(folder / "SCENES")
    trained = ["train", "--recipe", "debug", f"data.shards={folder}/corpus", *ONE_STEP, f"--output={folder}/runs/alpha"]
    assert main(trained) == 0
    return folder


@pytest.fixture
def in_world(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's process is in the folder, with a cache of its own."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "cache"))
    # The launcher puts the repository there for the ranks that it starts.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return world


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert sorted(README) == sorted([*RUNS, SUBMIT])


@pytest.mark.parametrize("command", list(RUNS), ids=lambda command: "-".join(re.findall(r"\w+", command)[:4]))
def test_the_command_runs(command: str, in_world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = RUNS[command]
    swaps = dict(run.replace)
    words = [swaps.get(word, word) for word in shlex.split(command)]
    assert set(swaps) <= set(shlex.split(command)), "the row replaces what is not there"
    assert run.how([*words, *run.more]) == 0, capfd.readouterr().err
    assert run.said in capfd.readouterr().out


def test_the_job_is_shown_to_a_real_slurm(slurm_cluster: SlurmCluster, in_world: Path) -> None:
    words = shlex.split(SUBMIT)
    site = in_world / "submit.env"
    site.write_text(f"ALBEF_PARTITION=high\nALBEF_PYTHON={sys.executable}\nALBEF_LOGS='{in_world}/logs'\n")
    # The test's cluster has three nodes.
    words = ["2" if before == "--nodes" else word for before, word in zip(["", *words], words, strict=False)]
    call = [sys.executable, "-m", "albef_ds.cli.main", *words[1:], "--site", str(site), "train.micro_batch_size=32"]
    done: Any = slurm_cluster.call(*call, cwd=in_world, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and "GB planned" in done.stdout, done.stderr


def test_the_python_of_the_readme_runs(in_world: Path) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)  # it is our own page
    assert names["model"].match("photos/1.jpg", ["a dog on a table", "a red cup"]).shape == (2,)


def test_commands_are_read_with_their_continuations() -> None:
    page = "```bash\nmake x   # why\n\na b \\\n    c=1\n```\n```\nnot this\n```\n"
    assert commands(page) == ["make x", "a b c=1"]
