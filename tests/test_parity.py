"""The golden numbers of the released code, whatever way the same mathematics is computed."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from albef_ds.config.schema import ComputeConfig
from tests.golden import recipe
from tests.parity.__main__ import main
from tests.parity.case import BOUNDS, GoldenCase
from tests.parity.pretrain import run_case

PUBLIC = Path(__file__).parent / "golden" / "public"
CASES = sorted(path.stem for path in PUBLIC.glob("pretrain_a*.json"))
SWITCHES = ("share_cross_kv", "mlm_masked_only", "itm_cls_only", "one_fusion_call")
EVERY = [(sdpa, *rest) for sdpa in ("sdpa", "plain") for rest in itertools.product((True, False), repeat=4)]
# alpha 0 leaves something out and fp32 adds rounding only: for these, eight of the 32, in which every pair of settings of
# every two switches occurs.
PAIRS = [("sdpa" if a else "plain", b, c, a ^ b, a ^ c) for a, b, c in itertools.product((True, False), repeat=3)]


CHECKPOINTED = [(PAIRS[0], {"checkpoint_visual": True, "checkpoint_text": True, "checkpoint_multimodal": True})]
CHECKPOINTED += [(PAIRS[-1], {"checkpoint_multimodal": True})]
RUNS = [("pretrain_a0.4_distill", "fp64", values, {}) for values in EVERY]
RUNS += [("pretrain_a0_distill", "fp64", values, {}) for values in PAIRS]
RUNS += [("pretrain_a0.4_distill", "fp32", values, {}) for values in PAIRS]
RUNS += [("pretrain_a0_distill", "fp32", values, {}) for values in (PAIRS[0], PAIRS[-1])]
RUNS += [("pretrain_a0.4_distill", precision, *run) for precision in ("fp32", "fp64") for run in CHECKPOINTED]
RUNS += [("pretrain_a0.4_distill", "fp64", values, {"packed_text": True}) for values in PAIRS]
RUNS += [("pretrain_a0_distill", "fp32", PAIRS[0], {"packed_text": True})]


def _name(run: tuple[str, str, tuple[Any, ...], dict[str, bool]]) -> str:
    case, precision, (attention, *switches), checkpoints = run
    on = [name for name, value in zip(SWITCHES, switches, strict=True) if value]
    return "+".join([case.split("_")[1], precision, attention, *on, *checkpoints])


@pytest.fixture(scope="module", autouse=True)
def _weights_are_made_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "uniform", functools.cache(recipe.uniform))
        yield


def test_both_golden_cases_are_there() -> None:
    assert CASES == ["pretrain_a0.4_distill", "pretrain_a0_distill"]


@pytest.mark.parametrize(("name", "precision", "values", "checkpoints"), RUNS, ids=[_name(run) for run in RUNS])
def test_every_way_to_compute_reproduces_the_released_code(
    name: str, precision: str, values: tuple[Any, ...], checkpoints: dict[str, bool]
) -> None:
    compute = ComputeConfig(attention=values[0], **dict(zip(SWITCHES, values[1:], strict=True)), **checkpoints)
    report = run_case(GoldenCase(PUBLIC, name), precision, compute)
    assert report.ok, {quantity: found for quantity, found in report.worst.items() if not found[0] <= found[1]}


def _copy_with_one_number_changed(folder: Path, change: float) -> Path:
    """A golden folder of one case whose third step's MLM loss is off by the factor 1 + `change`."""
    folder.mkdir()
    shutil.copy(PUBLIC / "config.json", folder)
    data = json.loads((PUBLIC / "pretrain_a0_distill.json").read_text())
    data["float64"]["steps"][2]["loss_mlm"] *= 1.0 + change
    (folder / "pretrain_a0_distill.json").write_text(json.dumps(data))
    return folder


def test_command_succeeds_only_where_every_number_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bound = BOUNDS["loss"][1]
    assert main([str(_copy_with_one_number_changed(tmp_path / "good", 0.0)), "--precisions", "fp64"]) == 0
    assert "1 cases, 0 comparisons failed" in capsys.readouterr().out
    assert main([str(_copy_with_one_number_changed(tmp_path / "bad", 3 * bound)), "--precisions", "fp64"]) == 1
    beyond = [line for line in capsys.readouterr().out.splitlines() if "beyond" in line]
    assert len(beyond) == 1 and beyond[0].split()[:2] == ["loss", "mlm"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([str(PUBLIC), "--kinds", "singing"], "--kinds singing"),
        ([str(PUBLIC), "--precisions", "fp16"], "--precisions fp16"),
        ([str(PUBLIC / "nowhere")], "nowhere"),
    ],
)
def test_command_refuses_a_wrong_call_in_one_line(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_command_without_a_folder_is_a_wrong_call() -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
