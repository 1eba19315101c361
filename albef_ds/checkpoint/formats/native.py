"""Our own format: a self-describing safetensors file, and a folder with everything needed to use the model.

    FOLDER/
        config.json               settings: model, task, preparation of texts and images
        model.safetensors         weights under our names (or model-0000i-of-0000n.safetensors and an index)
        vocab.txt                 WordPiece vocabulary
        tokenizer.json            the tokenizer with the cleaning of captions, for other programs
        preprocessor_config.json  size, mean and deviation of the images
        README.md                 model card: description, origin, use

The file's metadata holds configuration, lineage and checksums, so it can be used without the folder.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from albef_ds.checkpoint.formats.card import model_card
from albef_ds.checkpoint.formats.whole_model import WholeModel, check_complete, portable
from albef_ds.checkpoint.tensor_files.lazy import StoredTensors
from albef_ds.checkpoint.tensor_files.opening import INDEX_SUFFIX, open_tensors, shards_of
from albef_ds.checkpoint.tensor_files.safetensors_form import write_safetensors
from albef_ds.common.errors import DataError, WeightsError
from albef_ds.common.run_files import CONFIG_NAME
from albef_ds.config import files
from albef_ds.config.schema import RunConfig
from albef_ds.data.images.normalise import MEAN, STD
from albef_ds.data.text.tokenizer import DEFAULT_VOCAB
from albef_ds.data.text.tokenizer_file import SETTINGS_NAME, TOKENIZER_NAME, as_file, settings

FORMAT, VERSION = "albef_ds", 1
STEM = "model"
VOCAB_NAME = "vocab.txt"


def is_native(stored: StoredTensors) -> bool:
    """True if the metadata is ours."""
    return stored.metadata.get("format") == FORMAT


def from_native(stored: StoredTensors, source: Path, config: RunConfig | None = None) -> WholeModel:
    """The model in one of our files.

    Args:
        stored: the file's content.
        source: the file; a vocabulary named in the configuration is beside it.
        config: replaces the configuration in the file (a folder's config.json).

    Raises:
        WeightsError: another version wrote it, its metadata is damaged, or its tensors do not fit the configuration.
    """
    version = stored.metadata.get("version", "")
    if version != str(VERSION):
        found = version or "unknown"
        raise WeightsError(f"{source} is of format {found}, this version reads {VERSION}: use the one that wrote it")
    try:
        settings, lineage, layout = (json.loads(stored.metadata[key]) for key in ("config", "lineage", "layout"))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{source} has damaged metadata ({error}): write it again") from None
    config = config or files.from_dict(settings)
    if name := config.data.vocab_file:
        config = replace(config, data=replace(config.data, vocab_file=str(source.parent / Path(name).name)))
    model = WholeModel(config, stored.tensors, tuple(lineage), layout=layout)
    check_complete(model, str(source))
    return model


def is_model_folder(folder: Path) -> bool:
    """True if `folder` is one of our model folders."""
    return (folder / CONFIG_NAME).is_file() and weights_in(folder) is not None


def weights_in(folder: Path) -> Path | None:
    """The file of weights, or the index of shards, in a model folder; None without either."""
    candidates = (folder / f"{STEM}.safetensors", folder / f"{STEM}{INDEX_SUFFIX}")
    return next((path for path in candidates if path.is_file()), None)


def from_folder(folder: Path) -> WholeModel:
    """The model in a model folder. Raises WeightsError as `from_native`."""
    path = weights_in(folder)
    if path is None:
        raise WeightsError(f"{folder} holds no {STEM}.safetensors: give a model folder, a run's checkpoint or a file")
    stored = open_tensors(path)
    if not is_native(stored):
        raise WeightsError(f"{path} does not say that it is an albef_ds model: give a folder that `albef-ds convert` wrote")
    return from_native(stored, path, files.load(folder / CONFIG_NAME))


def save_file(model: WholeModel, path: Path, max_shard_bytes: int = 0) -> list[Path]:
    """Writes `model` to `path`, or if it is larger, to shards `STEM-0000i-of-0000n.safetensors` and an index beside it.

    Returns the files, first the one to open; the caller renames them into place.
    """
    metadata = _metadata(model)
    groups = shards_of(model.tensors, max_shard_bytes)
    if len(groups) == 1:
        write_safetensors(path, groups[0], metadata, checksums=True)
        return [path]
    stem = path.name.removesuffix(".safetensors")
    written, places = [], {}
    for number, group in enumerate(groups, start=1):
        part = path.with_name(f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors")
        write_safetensors(part, group, metadata, checksums=True)
        written.append(part)
        places.update(dict.fromkeys(group, part.name))
    index = path.with_name(stem + INDEX_SUFFIX)
    _write_json(index, {"metadata": {"total_size": model.nbytes}, "weight_map": places})
    return [index, *written]


def save_folder(model: WholeModel, folder: Path, max_shard_bytes: int = 0) -> None:
    """Fills the new `folder`. Raises DataError if the vocabulary is missing."""
    save_preparation(model, folder)
    config = replace(portable(model.config), data=replace(portable(model.config).data, vocab_file=VOCAB_NAME))
    model = replace(model, config=config)
    save_file(model, folder / f"{STEM}.safetensors", max_shard_bytes)
    files.save(config, folder / CONFIG_NAME)
    (folder / "README.md").write_text(model_card(model), encoding="utf-8")


def save_preparation(model: WholeModel, folder: Path) -> None:
    """Writes vocabulary and image preparation to `folder`. Raises DataError if the vocabulary is missing."""
    vocabulary = Path(model.config.data.vocab_file) if model.config.data.vocab_file else DEFAULT_VOCAB
    if not vocabulary.is_file():
        raise DataError(f"data.vocab_file {vocabulary} does not exist: put the vocabulary there or give data.vocab_file")
    shutil.copyfile(vocabulary, folder / VOCAB_NAME)
    size = model.config.model.vision.image_size
    preparation = {
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic, as PIL numbers it
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    _write_json(folder / "preprocessor_config.json", preparation)
    data = replace(model.config.evaluation_data, vocab_file=str(vocabulary))
    as_file(data).save(str(folder / TOKENIZER_NAME))
    _write_json(folder / SETTINGS_NAME, settings(data))


def _metadata(model: WholeModel) -> dict[str, str]:
    config = portable(model.config)
    if config.data.vocab_file:
        config = replace(config, data=replace(config.data, vocab_file=Path(config.data.vocab_file).name))
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(files.to_dict(config)),
        "lineage": json.dumps(model.lineage),
        "layout": json.dumps(model.layout),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
