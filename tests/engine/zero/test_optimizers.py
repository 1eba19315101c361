"""The choice of AdamW, and the error if an implementation cannot run."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from albef_ds.common.apex import nvidia_apex
from albef_ds.common.errors import MachineError, UserError
from albef_ds.config.schema import OptimConfig
from albef_ds.engine.zero.optimizers import build_optimizer, choose
from albef_ds.engine.zero.setup import prepare_environment

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def _apex(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    """Installs a fake package `apex`: NVIDIA's has FusedAdam, the one on PyPI does not."""
    package, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    if fused:
        optimizers.FusedAdam = torch.optim.AdamW  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)


def test_auto_is_apex_only_where_nvidias_is_installed_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _apex(monkeypatch, fused=False)
    assert nvidia_apex("optimizers", "FusedAdam") is None and choose("auto", GPU) == "torch"
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
    with pytest.raises(MachineError, match=message):
        build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))]}], OptimConfig(name=name), CPU)  # type: ignore[arg-type]


def test_the_groups_and_settings_reach_the_optimizer() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.3}]
    optimizer = build_optimizer(groups, OptimConfig(beta1=0.8, beta2=0.9, eps=1e-5), CPU)
    [group] = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.8, 0.9), 1e-5, 0.3, 0.0)


def _literal_adamw(weights: torch.Tensor, gradients: list[torch.Tensor], config: OptimConfig, decay: float) -> torch.Tensor:
    """Decoupled weight decay as published (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), in fp64."""
    x = weights.double()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        first = config.beta1 * first + (1 - config.beta1) * g
        second = config.beta2 * second + (1 - config.beta2) * g**2
        mean, spread = first / (1 - config.beta1**step), second / (1 - config.beta2**step)
        x = x - config.learning_rate * (mean / (spread.sqrt() + config.eps) + decay * x)
    return x


@pytest.mark.timeout(1500)  # the second is compiled first: minutes on a busy machine
@pytest.mark.parametrize("name", ["torch", "deepspeed_cpu"])
def test_every_implementation_that_runs_on_a_cpu_computes_the_published_step(name: str) -> None:
    config = OptimConfig(name=name, learning_rate=1e-2)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1001, generator=generator)
    gradients = [torch.randn(1001, generator=generator) for _ in range(5)]
    parameter = torch.nn.Parameter(start.clone())
    prepare_environment(CPU)
    try:
        optimizer = build_optimizer([{"params": [parameter], "weight_decay": 0.3}], config, CPU)
    except UserError as error:
        pytest.skip(str(error))
    optimizer.param_groups[0]["lr"] = config.learning_rate
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = _literal_adamw(start, gradients, config, 0.3)
    assert torch.allclose(parameter.detach().double(), expected, rtol=0, atol=1e-6)


def test_an_implementation_that_must_be_compiled_names_the_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MachineError, match=r"optim\.name=deepspeed_cpu is compiled at first use.*g\+\+.*optim\.name=torch"):
        build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))]}], OptimConfig(name="deepspeed_cpu"), CPU)
