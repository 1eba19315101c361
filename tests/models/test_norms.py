"""The choice of the LayerNorm. NVIDIA's apex needs a GPU to be built, so a stand-in replaces it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from albef_ds.common.errors import MachineError
from albef_ds.models.norms import choose_norm, set_norms


class _Fused(nn.Module):
    """The interface of apex's FusedLayerNorm."""

    def __init__(self, shape: tuple[int, ...], eps: float) -> None:
        super().__init__()
        self.shape, self.eps = shape, eps
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))


def _install(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    normalization = ModuleType("apex.normalization")
    if fused:
        normalization.FusedLayerNorm = _Fused  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.normalization", normalization)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_auto_takes_apex_only_where_nvidias_is_there_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_norm("auto") == "torch" or torch.cuda.is_available()
    _install(monkeypatch, fused=False)
    assert choose_norm("auto") == "torch"
    _install(monkeypatch, fused=True)
    assert choose_norm("auto") == "apex" and choose_norm("torch") == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_norm("auto") == "torch"
    with pytest.raises(MachineError, match=r"compute\.layer_norm=apex needs a GPU and NVIDIA apex"):
        choose_norm("apex")


def test_the_parameters_stay_the_same_objects_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, fused=True)
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4, eps=1e-6)), nn.LayerNorm(4))
    before = dict(model.named_parameters())
    assert set_norms(model, "auto") == "apex"
    norms = [module for module in model.modules() if isinstance(module, _Fused)]
    assert [norm.eps for norm in norms] == [1e-6, 1e-5] and not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
