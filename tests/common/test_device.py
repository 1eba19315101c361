"""Device and precision: decided from the hardware, refused where they cannot work."""

from __future__ import annotations

import pytest
import torch

from albef_ds.common import device as device_module
from albef_ds.common.device import multiplies_bf16, resolve_device, resolve_precision
from albef_ds.common.errors import ConfigError, MachineError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_cpu_is_taken_where_it_is_asked_for_or_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(MachineError, match=r"engine\.device=cuda but torch sees no GPU: use engine\.device=cpu"):
        resolve_device("cuda")


def test_every_rank_of_a_node_gets_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 3)
    monkeypatch.delenv("LOCAL_RANK")
    assert resolve_device("auto") == GPU and resolve_device("cpu") == CPU


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_bf16_only_where_the_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert resolve_precision("auto", GPU) == precision
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(device_module, "_is_intel", lambda: False)
    assert resolve_precision("auto", CPU) == precision and multiplies_bf16(CPU) == native


@pytest.mark.parametrize("amx", [True, False])
def test_intel_multiplies_bf16_fast_only_with_amx(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(device_module, "_is_intel", lambda: True)
    assert multiplies_bf16(CPU) == amx


def test_what_is_asked_for_is_given_save_fp16_on_a_cpu() -> None:
    assert [resolve_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("fp16", GPU) == "fp16"
    with pytest.raises(ConfigError, match=r"engine\.precision=fp16 does not train on a CPU: use engine\.precision=bf16 or fp32"):
        resolve_precision("fp16", CPU)
