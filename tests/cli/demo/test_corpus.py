"""The emoji corpus unpacks completely, its splits share no concept, and damage is an error."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest

from albef_ds.cli.demo.corpus import PACKED, emoji_corpus
from albef_ds.common.errors import DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.data.shards.format import Manifest
from albef_ds.data.shards.reader import ShardReader, parse_meta


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emoji_corpus(tmp_path_factory.mktemp("cache"))


def test_the_readme_states_what_the_manifests_hold(corpus: Path) -> None:
    text = (PACKED / "README.md").read_text()
    for split in ("train", "val", "test", "flags"):
        manifest = Manifest.load(corpus / split)
        row = re.search(rf"\| `{split}` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([^|]*) \|", text)
        assert row is not None
        stated = [int(value.replace(",", "")) for value in row.groups()[:3]]
        assert stated == [manifest.info["concepts"], manifest.info["families"], manifest.num_samples]
        styles = {name: int(count.replace(",", "")) for name, count in re.findall(r"([a-z][a-z3-]+) ([\d,]*\d)", row[4])}
        assert (styles or {row[4].strip(): stated[2]}) == manifest.info["samples_per_set"]


def test_no_family_straddles_two_splits(corpus: Path) -> None:
    splits = defaultdict(set)
    for split in ("train", "val", "test", "flags"):
        reader = ShardReader(corpus / split)
        for number, count in enumerate(reader.counts):
            for row in range(count):
                meta = parse_meta(reader.read_meta(number, row))
                splits["family", meta["family"]].add(split)
                splits["label", meta["label"]].add(split)
                assert split == "train" or meta["captions"] == [meta["label"]]
    assert not [name for name, found in splits.items() if len(found) > 1]


def test_the_test_gallery_is_three_hundred_concepts(corpus: Path) -> None:
    gallery = RetrievalSet(corpus / "test", DataConfig(), image_size=16)
    assert gallery.num_images == gallery.num_captions == len(set(gallery.captions)) == 300
    assert gallery.images(range(300)).shape == (300, 3, 16, 16)


def test_unpacking_twice_is_done_once(corpus: Path) -> None:
    stamp = (corpus / "test").stat().st_ctime_ns
    assert emoji_corpus(corpus.parent) == corpus and (corpus / "test").stat().st_ctime_ns == stamp
    assert [path.name for path in corpus.parent.iterdir()] == [corpus.name]


def pack(folder: Path, name: str, checksum: str = "") -> Path:
    """A packed corpus of one split `val` with one member called `name`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    content = lzma.compress(buffer.getvalue())
    folder.mkdir()
    (folder / "val.tar.xz").write_bytes(content)
    (folder / "checksums.json").write_text(json.dumps({"val.tar.xz": checksum or hashlib.sha256(content).hexdigest()}))
    return folder


@pytest.mark.parametrize("name", ["../evil", "val/../../evil", "/tmp/evil", "val/..", "train/x", "val/a/b"])
def test_no_member_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="not a file of a corpus"):
        emoji_corpus(tmp_path / "cache", pack(tmp_path / "packed", name))
    assert not list((tmp_path / "cache").iterdir()) and not (tmp_path / "evil").exists()


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="differs from its checksum"):
        emoji_corpus(tmp_path / "cache", pack(tmp_path / "packed", "val/x", checksum="0" * 64))
    with pytest.raises(DataError, match="not in"):
        emoji_corpus(tmp_path / "cache", tmp_path / "nowhere")
    assert not list((tmp_path / "cache").iterdir())
