"""Which AdamW a run gets, and what is said where one cannot run."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from albef_ds.config.schema import OptimConfig
from albef_ds.errors import ConfigError
from albef_ds.zero.optimizers import build_optimizer, choose, nvidia_apex

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def _apex(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    """Put a package called apex in place: NVIDIA's has FusedAdam, the one on PyPI has not."""
    package, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    if fused:
        optimizers.FusedAdam = torch.optim.AdamW  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)


def test_auto_is_apex_only_where_nvidias_is_installed_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _apex(monkeypatch, fused=False)
    assert nvidia_apex() is None and choose("auto", GPU) == "torch"
    _apex(monkeypatch, fused=True)
    assert choose("auto", GPU) == "apex" and choose("auto", CPU) == "torch"
    assert choose("deepspeed_cpu", CPU) == "deepspeed_cpu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("apex", r"optim\.name=apex needs a GPU and NVIDIA apex \(github\.com/NVIDIA/apex.*optim\.name=auto"),
        ("deepspeed_fused", r"optim\.name=deepspeed_fused needs a GPU: use optim\.name=torch"),
    ],
)
def test_an_implementation_that_cannot_run_is_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))]}], OptimConfig(name=name), CPU)  # type: ignore[arg-type]


def test_the_groups_and_settings_reach_the_optimizer() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.3}]
    optimizer = build_optimizer(groups, OptimConfig(beta1=0.8, beta2=0.9, eps=1e-5), CPU)
    [group] = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.8, 0.9), 1e-5, 0.3, 0.0)
