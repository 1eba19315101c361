"""Models on the Hub: pushed to and fetched from a small Hub of the test, and read from the cache without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError, UserError
from albef_ds.inference.hub import Address, address_of, is_address, missing_files
from tests.inference.fake_hub import FakeHub, fake_hub
from tests.inference.tiny_models import model_folder

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("huggingface_hub")

SCRIPT = """
import contextlib, io, json, os, sys
import torch, albef_ds
from albef_ds.cli.main import main
from tests.inference.tiny_models import picture

def same(paths):
    models = [albef_ds.load(path, device="cpu") for path in paths]
    for other in models[1:]:
        assert torch.equal(models[0].encode_image(picture(1)), other.encode_image(picture(1)))
        assert torch.equal(models[0].encode_text(["a red cup"]), other.encode_text(["a red cup"]))
    print("equal", [step["what"] for step in models[-1].lineage][0])
    return 0

answers = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if words[0] == "token":
            os.environ["HF_TOKEN"] = words[1]
        code = same(words[1:]) if words[0] == "same" else 0 if words[0] == "token" else main(words)
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""
Answers = list[tuple[int, str, str]]
Run = Callable[..., Answers]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Commands in a process with a cache of its own, since huggingface_hub reads its environment when it is imported."""

    def call(*commands: list[str], hub: FakeHub | None = None) -> Answers:
        online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"} if hub else {"HF_HUB_OFFLINE": "1"}
        more = {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_right", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **online, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [(code, out, err) for code, out, err in json.loads(done.stdout.splitlines()[-1])]

    return call


def refused(answer: tuple[int, str, str], problem: str) -> None:
    code, _, err = answer
    lines = [line for line in err.splitlines() if line.startswith("albef-ds: error")]
    assert code == 2 and len(lines) == 1 and problem in lines[0], err


def test_a_model_is_pushed_fetched_and_read_again_without_a_network(run: Run, tmp_path: Path) -> None:
    model, name = str(model_folder(tmp_path, "retrieval")), "hf://organisation/albef"
    with fake_hub() as hub:
        hub.add("organisation/pickles", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
        first = hub.number("organisation/albef", 1)  # after the one that makes the repository
        addresses = [name, f"{name}@{first}"]
        answers = run(
            ["push", model, name, "--private"],
            ["same", model, *addresses],
            ["pull", name, "pulled"],
            ["pull", "hf://organisation/absent", "x"],
            ["pull", f"{name}@v9", "x"],
            ["pull", "hf://organisation/pickles", "x"],
            ["token", "hf_wrong"],
            ["push", model, "hf://organisation/other"],
            hub=hub,
        )
        assert answers[0][0] == 0 and f"{name}@main: {hub.address}/organisation/albef/commit/{first}" in answers[0][1], answers[0]
        files = hub.commits["organisation/albef"][first]
        card = files["README.md"].decode()
        assert f'albef_ds.load("{name}")' in card and "made for a test" in card
        assert "equal made for a test" in answers[1][1]
        assert answers[2][0] == 0 and (tmp_path / "pulled" / "model.safetensors").is_file()
        refused(answers[3], "hf://organisation/absent@main does not exist, or is private")
        refused(answers[4], "organisation/albef has no revision v9")
        refused(answers[5], "a safetensors file is missing")
        refused(answers[7], "cannot be pushed")
        assert not [path for path in hub.asked if path.endswith(".bin")] and [
            path for path in hub.asked if path.endswith("config.json")
        ]
    [again] = run(["same", model, *addresses, "pulled"])
    assert "equal" in again[1]


def test_the_cache_of_another_machine_is_read_and_a_part_of_one_is_not(run: Run, tmp_path: Path) -> None:
    model = model_folder(tmp_path, "retrieval")
    for name in ("whole", "part"):
        place = tmp_path / "cache" / "hub" / f"models--organisation--{name}"
        snapshot = place / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("a" * 40)
        for file in model.iterdir():
            (snapshot / file.name).write_bytes(file.read_bytes())
    (snapshot / "model.safetensors").unlink()
    whole, part, absent = run(
        ["same", str(model), "hf://organisation/whole"],
        ["pull", "hf://organisation/part", "x"],
        ["pull", "hf://organisation/absent", "x"],
    )
    assert "equal" in whole[1]
    refused(part, "a safetensors file is missing")
    refused(absent, "is not in the local cache and the Hub cannot be reached")


@pytest.mark.parametrize(
    "text",
    ["hf://albef", "hf://a/b/c", "hf://a/b@", "hf://", "hf://a/b@x y", "hf://../b@..//", "hf:///etc/passwd", "hf://a/b?x=1"],
)
def test_other_forms_of_an_address_are_refused(text: str) -> None:
    assert is_address(text)
    with pytest.raises(ConfigError, match="write it like hf://organisation/name@revision"):
        address_of(text)


def test_an_address_may_have_a_revision_and_may_have_become_a_path() -> None:
    assert address_of("hf://a/b") == address_of(Path("hf://a/b")) == Address("a/b", "main")
    assert address_of("hf://a.b/c-d@refs/pr/1") == Address("a.b/c-d", "refs/pr/1") and not is_address("runs/hf")


def test_a_split_model_lacks_its_parts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert missing_files(tmp_path) == "model-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert missing_files(tmp_path) == "a readable model.safetensors.index.json"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pull", "hf://a/b", "x"]) == 2
    assert "run `pip install albef-ds[hub]`" in capfd.readouterr().err
    assert issubclass(ConfigError, UserError)
