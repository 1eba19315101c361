"""Every damage to every file of a checkpoint is noticed before anything of it is used."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.common.errors import WeightsError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER
from albef_ds.evaluation.score_run import _candidates
from tests.checkpoint.common import config_for, save, train
from tests.engine.zero.common import make

FILES = [
    "complete.json",
    "config.json",
    "exp_avg.safetensors",
    "exp_avg_sq.safetensors",
    "momentum.safetensors",
    "queue.safetensors",
    "rank-00000.safetensors",
    "state.json",
    "student.safetensors",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2."""
    output = tmp_path_factory.mktemp("run")
    config = config_for(-1)
    task, engine = make(config)
    progress = TrainingProgress(config.train)
    for step in (1, 2):
        train(config, task, engine, progress, step)
        save(output, config, task, engine, progress)
    return output


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def _delete(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _flip(place: float, bit: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1 << bit
        path.write_bytes(bytes(content))

    return flip


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": _delete,
    "emptied": _empty,
    "truncated": _truncate,
    "appended to": _append,
    **{f"bit {bit} flipped at {place:.0%}": _flip(place, bit) for place in (0.0, 0.3, 0.7, 1.0) for bit in (0, 5)},
}


def test_the_files_are_those_that_are_damaged_here(run: Path) -> None:
    for step in (1, 2):
        assert sorted(path.name for path in (run / CHECKPOINTS_FOLDER / f"step-{step:07d}").iterdir()) == FILES


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_auto_passes_over_a_damaged_checkpoint_and_a_named_one_is_refused(
    copy: Path, name: str, damage: Callable[[Path], None]
) -> None:
    newest, older = copy / CHECKPOINTS_FOLDER / "step-0000002", copy / CHECKPOINTS_FOLDER / "step-0000001"
    damage(newest / name)
    said: list[str] = []
    assert find_checkpoint(copy, "auto", said.append) == older
    if name == "complete.json" and damage is _delete:
        assert not said  # without its marker the folder was never a checkpoint
    else:
        assert len(said) == 1 and str(newest) in said[0] and name in said[0]
    with pytest.raises(WeightsError, match=rf"step-0000002 is damaged: .*{name}.*take another checkpoint"):
        find_checkpoint(copy, str(newest))


def test_every_byte_of_the_marker_counts(copy: Path) -> None:
    path = copy / CHECKPOINTS_FOLDER / "step-0000002" / "complete.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        assert find_checkpoint(copy, "auto") == copy / CHECKPOINTS_FOLDER / "step-0000001", place
    path.write_bytes(whole)
    assert find_checkpoint(copy, "auto") == copy / CHECKPOINTS_FOLDER / "step-0000002"


def test_a_checkpoint_of_an_earlier_version_is_checked_by_its_sha256(copy: Path) -> None:
    """As versions wrote it whose marker had format 1."""
    folder = copy / CHECKPOINTS_FOLDER / "step-0000002"
    names = [name for name in FILES if name != "complete.json"]
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256((folder / name).read_bytes())} for name in names}
    own = _sha256(json.dumps(files, sort_keys=True).encode())
    marker = {"files": files, "format": 1, "sha256": own}
    (folder / "complete.json").write_text(json.dumps(marker, indent=1) + "\n")
    assert find_checkpoint(copy, "auto") == folder
    _flip(0.5, 3)(folder / "momentum.safetensors")
    with pytest.raises(WeightsError, match=r"momentum\.safetensors has another checksum"):
        find_checkpoint(copy, str(folder))
    (folder / "complete.json").write_text(json.dumps({**marker, "format": 3}, indent=1) + "\n")
    with pytest.raises(WeightsError, match=r"complete\.json is of format 3, this version reads 1 and 2"):
        find_checkpoint(copy, str(folder))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_all_damaged_is_one_line_and_no_new_start(copy: Path) -> None:
    for step in (1, 2):
        _truncate(copy / CHECKPOINTS_FOLDER / f"step-{step:07d}" / "student.safetensors")
    with pytest.raises(WeightsError, match=r"all 2 checkpoints in .* are damaged: restore a backup"):
        find_checkpoint(copy, "auto")


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, "auto") is None
    (tmp_path / CHECKPOINTS_FOLDER / "step-0000004.tmp").mkdir(parents=True)
    assert find_checkpoint(tmp_path, "auto") is None


def test_what_a_killed_save_left_is_cleaned_and_what_it_replaced_is_put_back(copy: Path) -> None:
    root = copy / CHECKPOINTS_FOLDER
    (root / "step-0000003.tmp").mkdir()
    (root / "step-0000002").rename(root / "step-0000002.replaced.tmp")
    Saver(copy, config_for(-1)).clean()
    assert sorted(path.name for path in root.iterdir()) == ["step-0000001", "step-0000002"]
    assert find_checkpoint(copy, "auto") == root / "step-0000002"


def test_nothing_in_a_checkpoint_is_pickled(run: Path) -> None:
    for path in (run / CHECKPOINTS_FOLDER / "step-0000002").iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02")


def test_everybody_who_reads_the_run_is_told_which_checkpoint_it_was(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, before = sorted((copy / CHECKPOINTS_FOLDER).glob("step-*"))[::-1]
    path = newest / "student.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read_model(copy).path == before
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{newest} is damaged (student.safetensors has another checksum") and line.endswith(before.name)
    assert _candidates(copy) == [before]
    assert f"{newest} is damaged" in capsys.readouterr().err
