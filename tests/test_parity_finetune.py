"""The golden numbers of the fine-tuning tasks, computed the fast way, the plain way, and with recomputed activations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from albef_ds.config.schema import ComputeConfig
from tests.golden import recipe
from tests.parity.case import GoldenCase
from tests.parity.finetune import KINDS, run_case

PUBLIC = Path(__file__).parent / "golden" / "public"
CASES = sorted(path.stem for kind in KINDS for path in PUBLIC.glob(f"{kind}_a*.json"))
FAST = ComputeConfig()
PLAIN = ComputeConfig(attention="plain", share_cross_kv=False, mlm_masked_only=False, itm_cls_only=False, one_fusion_call=False)
RECOMPUTED = ComputeConfig(attention="sdpa", checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
RUNS = [(case, "fp64", FAST) for case in CASES]
RUNS += [
    (case, precision, compute)
    for case in CASES
    if "a0.4" in case
    for precision, compute in (("fp32", FAST), ("fp64", PLAIN), ("fp64", RECOMPUTED))
]


@pytest.fixture(scope="module", autouse=True)
def _weights_are_made_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "uniform", functools.cache(recipe.uniform))
        yield


def test_all_golden_cases_are_there() -> None:
    cases = {kind: ["a0.4_distill", "a0_distill", "a0_nodistill"] for kind in KINDS}
    assert sorted(f"{kind}_{case}" for kind in cases for case in cases[kind]) == CASES


@pytest.mark.parametrize(
    ("name", "precision", "compute"),
    RUNS,
    ids=[f"{name}-{precision}-{number}" for number, (name, precision, _) in enumerate(RUNS)],
)
def test_every_way_to_compute_reproduces_the_released_fine_tuning(name: str, precision: str, compute: ComputeConfig) -> None:
    report = run_case(GoldenCase(PUBLIC, name), precision, compute)
    assert report.ok, {quantity: found for quantity, found in report.worst.items() if not found[0] <= found[1]}
    if name.startswith("vqa"):
        assert {"top 4 answers", "top 9 answers"} <= report.worst.keys()
