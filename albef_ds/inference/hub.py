"""Models on the Hugging Face Hub: `hf://ORGANISATION/NAME@REVISION`, through huggingface_hub's cache and its offline mode.

Only model folders of ours are taken, and of those only safetensors, settings and texts: no other file is fetched, so no pickle
can be read. huggingface_hub may return a part-filled snapshot as if it were whole, so the files are checked here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from albef_ds.checkpoint.formats.native import is_model_folder
from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.common.atomic_files import atomic_path
from albef_ds.common.errors import ConfigError, MachineError, WeightsError, first_line
from albef_ds.common.progress import Progress, silent
from albef_ds.common.run_files import CONFIG_NAME

SCHEME = "hf://"
PATTERNS = (
    CONFIG_NAME,
    "*.safetensors",
    "*.safetensors.index.json",
    "vocab.txt",
    "tokenizer*.json",
    "preprocessor_config.json",
)
CARD = "README.md"
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")


@dataclass(frozen=True)
class Address:
    """A model on the Hub."""

    repository: str
    revision: str
    """A branch, a tag or a commit."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}@{self.revision}"


def is_address(path: str | os.PathLike[str]) -> bool:
    """Returns whether `path` is meant as a model on the Hub."""
    return os.fspath(path).startswith("hf:/")


def address_of(path: str | os.PathLike[str]) -> Address:
    """Reads `hf://ORGANISATION/NAME` with or without `@REVISION` (main). Raises `ConfigError` for another form."""
    found = _ADDRESS.fullmatch(os.fspath(path))
    if not found:
        raise ConfigError(f"{os.fspath(path)} is no address on the Hub: write it like hf://organisation/name@revision")
    return Address(found["repository"], found["revision"] or "main")


def fetched(path: str | os.PathLike[str]) -> Path:
    """The folder in the local cache of a model on the Hub, fetched if it is not there.

    Raises:
        UserError: the address has another form, huggingface_hub is not installed, there is no such model or no network, or the
            repository holds no model folder with safetensors.
    """
    address = address_of(path)
    check_installed()
    from huggingface_hub import errors, snapshot_download  # optional package

    try:
        folder = Path(
            snapshot_download(
                address.repository, revision=address.revision, allow_patterns=[*PATTERNS, CARD], library_name="albef_ds"
            )
        )
    except errors.LocalEntryNotFoundError:
        raise WeightsError(
            f"{address} is not in the local cache and the Hub cannot be reached: connect once, or unset HF_HUB_OFFLINE"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{address.repository} has no revision {address.revision}: give a branch, tag or commit") from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(f"{address} does not exist, or is private: check the name, or log in with `hf auth login`") from None
    except Exception as error:  # its network errors are of another package in each of its versions
        raise WeightsError(f"{address} cannot be fetched ({first_line(error)}): check the network, or try again") from None
    missing = missing_files(folder)
    if missing:
        raise WeightsError(f"{address} is not whole in {folder} ({missing} is missing): connect to the Hub and fetch it again")
    return folder


def missing_files(folder: Path) -> str:
    """The first file that a model folder lacks; empty if there is none."""
    if not (folder / CONFIG_NAME).is_file():
        return CONFIG_NAME
    for index in folder.glob("*.safetensors.index.json"):
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"a readable {index.name}"
        return next((str(name) for name in sorted(parts) if not (folder / str(name)).is_file()), "")
    return "" if is_model_folder(folder) else "a safetensors file"


def pull(path: str, folder: Path) -> Path:
    """Copies a model on the Hub into the new `folder`. Raises `UserError` as `fetched`, or if `folder` exists."""
    if folder.exists():
        raise MachineError(f"{folder} exists: give another name")
    source = fetched(path)
    try:
        with atomic_path(folder) as scratch:
            scratch.mkdir(parents=True)
            for file in source.iterdir():
                shutil.copy(file, scratch / file.name)
    except OSError as error:
        raise MachineError(f"{folder} cannot be written ({error.strerror}): give another folder") from None
    return folder


def push(source: str, address: Address, *, private: bool, message: str, progress: Progress = silent) -> str:
    """Writes `source` as a model folder and uploads it; returns the address of the commit.

    Args:
        source: any model that `albef_ds.load` takes, but on this machine.
        address: repository, which is created, and branch, which exists (or main).
        private: for a new repository.
        message: of the commit.
        progress: called while the written model is read back; huggingface_hub shows the upload itself.

    Raises:
        UserError: there is no such model, huggingface_hub is not installed, or the Hub refuses or cannot be reached.
    """
    check_installed()
    from huggingface_hub import HfApi, errors  # optional package

    found = read_model(source)
    with tempfile.TemporaryDirectory(prefix="albef-push-") as scratch:
        folder = Path(scratch) / "model"
        convert(found, folder, Options("folder", weights="student", queues=False), progress)
        card = (folder / CARD).read_text(encoding="utf-8")
        (folder / CARD).write_text(card.replace('"FOLDER"', f'"{SCHEME}{address.repository}"'), encoding="utf-8")
        try:
            hub = HfApi(library_name="albef_ds")
            hub.create_repo(address.repository, private=private, exist_ok=True)
            done = hub.upload_folder(
                repo_id=address.repository, folder_path=folder, revision=address.revision, commit_message=message
            )
        except errors.RevisionNotFoundError:
            raise ConfigError(
                f"{address.repository} has no branch {address.revision}: make it on the Hub, or push to main"
            ) from None
        except Exception as error:  # as in `fetched`
            raise WeightsError(
                f"{address} cannot be pushed ({first_line(error)}): log in with `hf auth login`, and be online"
            ) from None
    return str(done.commit_url)


def check_installed() -> None:
    """Raises `MachineError` if huggingface_hub is not installed."""
    try:
        import huggingface_hub  # noqa: F401 (optional package)
    except ImportError:
        raise MachineError("huggingface_hub is not installed: run `pip install albef-ds[hub]`") from None
