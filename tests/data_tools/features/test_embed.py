"""`albef-data embed`: features and scores beside the manifest, made once per shard, and what reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import albef_ds
from albef_ds.common.errors import UserError
from data_tools.cli import main
from data_tools.features.stored import StoredFeatures
from data_tools.files.shard_writer import ShardWriter
from data_tools.stages.decisions import Decisions
from tests.data_tools.sample_images import jpeg
from tests.inference.tiny_models import model_folder

CAPTIONS = [["a red cup"], ["a blue cup", "the table"], ["dogs on the table"], ["a cat"], ["a cup", "!!!"], ["two dogs"]]
BROKEN = 3
"""The sample whose image cannot be read."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), "pretrain")


def write_corpus(folder: Path) -> Path:
    """Three shards of two samples each."""
    with ShardWriter(folder, samples_per_shard=2, info={}) as writer:
        for number, captions in enumerate(CAPTIONS):
            image = b"no image" if number == BROKEN else jpeg(number)
            writer.add(image, "jpg", {"captions": captions, "image_id": str(number), "source": "test"})
    return folder


def embedded(folder: Path, model: Path, *more: str) -> int:
    return main(["embed", str(folder), "--model", str(model), "--device", "cpu", "--batch-size", "3", *more])


@pytest.fixture(scope="module")
def corpus(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")
    assert embedded(folder, model) == 0
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "embed").iterdir())}


def test_features_and_scores_are_those_of_the_python_interface(corpus: Path, model: Path, tmp_path: Path) -> None:
    loaded, stored = albef_ds.load(model), StoredFeatures(corpus)
    parts = list(stored.parts())
    images, texts = (np.concatenate([part[name] for part in parts]).astype(np.float32) for name in ("images", "texts"))
    scores = stored.scores()
    assert scores["captions"].tolist() == [len(captions) for captions in CAPTIONS]
    row = 0
    for number, captions in enumerate(CAPTIONS):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(jpeg(number))
        if number == BROKEN:
            assert not images[number].any()
        else:
            assert np.abs(images[number] - loaded.encode_image(path)[0].numpy()).max() < 1e-3  # stored as float16
        for caption in captions:
            if caption == "!!!":
                assert not texts[row].any()
                assert np.isnan([scores["itm"][row], scores["itc"][row]]).all()
            else:
                feature = loaded.encode_text(caption)[0]
                assert np.abs(texts[row] - feature.numpy()).max() < 1e-3
                if number == BROKEN:
                    assert np.isnan([scores["itm"][row], scores["itc"][row]]).all()
                else:
                    similarity = float(loaded.encode_image(path)[0] @ feature)
                    assert abs(scores["itm"][row] - float(loaded.match(path, caption)[0])) < 1e-5
                    assert abs(scores["itc"][row] - similarity) < 1e-5
            row += 1
    facts = stored.summary
    assert (facts["num_captions"], facts["pictures_not_read"], facts["captions_not_read"]) == (row, 1, 1)


def test_it_continues_by_shard_and_array_tasks_and_ranks_share_it(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpus(tmp_path / "corpus")
    array = ["--task-index", "1", "--num-tasks", "2"]
    assert embedded(folder, model, *array) == 0
    assert [name for name in files(folder) if name.endswith("tensors")] == ["00001.safetensors"]
    with pytest.raises(UserError, match="no finished features"):
        StoredFeatures(folder)
    written = (folder / "embed" / "00001.safetensors").stat().st_mtime_ns
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert embedded(folder, model, "--task-index", "1", "--num-tasks", "2") == 0  # share 2 of 4
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert [name for name in files(folder) if name.endswith("tensors")] == ["00001.safetensors", "00002.safetensors"]
    assert embedded(folder, model) == 0
    assert (folder / "embed" / "00001.safetensors").stat().st_mtime_ns == written
    assert files(folder) == files(corpus)


def test_another_model_needs_another_name_or_restart(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = model_folder(tmp_path, "retrieval")
    assert embedded(corpus, other) == 2
    assert "was made with another model" in capsys.readouterr().err
    assert embedded(corpus, other, "--name", "other") == 0
    assert StoredFeatures(corpus, "other").digest != StoredFeatures(corpus).digest
    vqa = model_folder(tmp_path, "vqa")
    assert embedded(corpus, vqa) == 2
    assert "kind pretrain or retrieval" in capsys.readouterr().err


def test_a_damaged_file_and_a_corpus_that_grew_are_refused(model: Path, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    assert embedded(folder, model) == 0
    path = folder / "embed" / "00002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"00002\.safetensors is damaged"):
        list(StoredFeatures(folder).parts())
    path.write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    dropped = manifest["shards"].pop()
    manifest["num_samples"] -= dropped["num_samples"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="features of other shards"):
        StoredFeatures(folder)
    assert embedded(folder, model) == 0
    assert StoredFeatures(folder).num_samples == 4


def staged(corpus: Path, work: Path, *rules: str) -> Decisions:
    """The decisions of the filter over a catalog of `corpus`."""
    if not (work / "scan").exists():
        assert main(["catalog", "--work", str(work), "--source", f"c=shards:{corpus}"]) == 0
        assert main(["scan", "--work", str(work), "--workers", "1"]) == 0
    assert main(["filter", "--work", str(work), *(part for rule in rules for part in ("--set", rule))]) == 0
    return Decisions.load(work / "filter")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def dropped(decisions: Decisions, reason: str) -> list[int]:
    """Captions dropped for `reason`."""
    code = decisions.reasons.index(reason) + 1 if reason in decisions.reasons else -1
    return np.flatnonzero(decisions.caption == code).tolist()


@pytest.mark.parametrize(
    ("rule", "name", "reason"), [("min_itm", "itm", "caption scored low by ITM"), ("min_itc", "itc", "caption scored low by ITC")]
)
def test_captions_below_a_threshold_are_dropped(corpus: Path, work: Path, rule: str, name: str, reason: str) -> None:
    scores = StoredFeatures(corpus).scores()[name]
    threshold = float(np.sort(scores[np.isfinite(scores)])[2]) + 1e-6
    decisions = staged(corpus, work, f"{rule}={threshold}")
    expected = np.flatnonzero(scores < threshold)
    assert dropped(decisions, reason) == expected.tolist()
    assert len(expected) == 3


def test_the_lowest_share_is_dropped_overall_or_within_clusters(corpus: Path, work: Path) -> None:
    scores = StoredFeatures(corpus).scores()
    ranked = [row for row in np.argsort(scores["itm"], kind="stable").tolist() if np.isfinite(scores["itm"][row])]
    decisions = staged(corpus, work, "lowest_itm=0.4")
    assert dropped(decisions, "caption among the lowest by ITM") == sorted(ranked[: int(0.4 * len(ranked))])
    decisions = staged(corpus, work, "lowest_itm=0.5", "clusters=2")
    owners = np.repeat(np.arange(len(CAPTIONS)), [len(captions) for captions in CAPTIONS])
    gone = dropped(decisions, "caption among the lowest by ITM")
    assert gone
    assert not set(owners[gone]) & {BROKEN}
    assert decisions.counts()["caption among the lowest by ITM"]["captions"] == len(gone)


def test_the_rules_need_features_of_a_corpus(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_corpus(tmp_path / "plain")
    for arguments in (["catalog", "--source", f"c=shards:{plain}"], ["scan", "--workers", "1"]):
        assert main([*arguments[:1], "--work", str(tmp_path / "w"), *arguments[1:]]) == 0
    assert main(["filter", "--work", str(tmp_path / "w"), "--set", "min_itm=0.5"]) == 2
    assert "no finished features: run `albef-data embed" in capsys.readouterr().err


def test_a_corpus_is_written_again_without_what_scores_low_and_the_report_shows_it(corpus: Path, tmp_path: Path) -> None:
    scores = StoredFeatures(corpus).scores()["itm"]
    threshold = float(np.nanmedian(scores))
    out, work = tmp_path / "out", tmp_path / "work"
    arguments = ["build", "--work", str(work), "--out", str(out), "--source", f"c=shards:{corpus}", "--samples-per-shard", "4"]
    assert main([*arguments, "--set", f"min_itm={threshold}", "--workers", "1", "--jaccard", "1"]) == 0
    report = (work / "report.html").read_text()
    assert "caption scored low by ITM" in report
    assert "ITM probability" in report
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["info"]["dropped"]["caption scored low by ITM"][1] == int((scores < threshold).sum())


def test_dedup_reads_the_features_by_name(corpus: Path, tmp_path: Path) -> None:
    decisions = staged(corpus, tmp_path)
    assert main(["dedup", "--work", str(tmp_path), "--embeddings", "embed", "--cosine", "0.001"]) == 0
    decisions = Decisions.load(tmp_path / "dedup")
    images = np.concatenate([part["images"] for part in StoredFeatures(corpus).parts()]).astype(np.float32)
    alike = (images @ images.T >= 0.001).sum() > len(CAPTIONS)
    assert ("duplicate: means the same" in decisions.reasons) == bool(alike)
    assert not (tmp_path / "dedup" / "features.npy").exists()


def test_the_same_weights_in_another_precision_are_other_features(corpus: Path, model: Path) -> None:
    assert embedded(corpus, model, "--dtype", "bf16") == 2


@pytest.mark.parametrize("name", ["../beside", "..", ".", ""])
def test_a_name_that_leaves_the_corpus_is_refused(
    name: str, corpus: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embedded(corpus, model, "--name", name, "--restart") == 2
    assert "give that of a folder beside the manifest" in capsys.readouterr().err
