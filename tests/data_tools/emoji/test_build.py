"""The corpus builder on packages of three icons in the real packages' layout."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest
from albef_ds.data.shards.reader import ShardReader, parse_meta
from data_tools.emoji.build import build_and_pack
from data_tools.emoji.concepts import Concept, captions, split_concepts
from data_tools.emoji.families import family_keys, group_families, normal_code
from data_tools.emoji.sources import EMOJIBASE, FLUENT_3D, FLUENT_FLAT, NOTO, PACKAGES, TWEMOJI, Package, locate, unpack
from data_tools.emoji.styles import icon_svg, render_svg

ROWS = [
    {"label": "red apple", "hexcode": "1F34E", "tags": ["fruit", "mac"], "order": 1, "group": 4, "subgroup": 0},
    {"label": "dog face", "hexcode": "1F436", "tags": ["pet"], "order": 2, "group": 3, "subgroup": 0, "skins": [{}, {}]},
    {"label": "dog", "hexcode": "1F415", "order": 3, "group": 3, "subgroup": 0},
    {"label": "flag: Chad", "hexcode": "1F1F9-1F1E9", "order": 4, "group": 9, "subgroup": 0},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]
GROUPS = {"groups": {"3": "animals-nature", "4": "food-drink", "9": "flags"}, "subgroups": {"0": "any"}}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    for package in PACKAGES:
        write_json(folder / package.folder / "package.json", {"name": package.name, "version": package.version})
    write_json(folder / EMOJIBASE.folder / "en" / "data.json", ROWS)
    write_json(folder / EMOJIBASE.folder / "meta" / "groups.json", GROUPS)
    for number, package in enumerate((NOTO, TWEMOJI, FLUENT_FLAT)):
        body = '<circle cx="{}" cy="9" r="5" fill="red"/>'
        # In the first set dog and dog face are drawn alike.
        icons = {name: {"body": body.format(place + number)} for name, place in (("apple", 2), ("dog", 6), ("chad", 9))}
        if number:
            icons["dog2"] = {"body": body.format(13 - number)}
        names = {"1f34e": "apple", "1f436": "dog", "1f415": "dog2" if number else "dog", "1f1f9-1f1e9": "chad"}
        write_json(folder / package.folder / "icons.json", {"icons": icons, "width": 16, "height": 16})
        write_json(folder / package.folder / "chars.json", names)
    (folder / FLUENT_3D.folder / "assets").mkdir()
    Image.new("RGBA", (20, 20), (0, 0, 255, 0)).save(folder / FLUENT_3D.folder / "assets" / "1f34e.webp")
    return folder


def test_building_twice_gives_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        build_and_pack(sources, tmp_path / name)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"checksums.json", "test.tar.xz", "flags.tar.xz"}


def test_a_gallery_shows_every_concept_once_and_no_picture_twice(sources: Path, tmp_path: Path) -> None:
    build_and_pack(sources, tmp_path / "packed")
    corpus = emoji_corpus(tmp_path / "cache", tmp_path / "packed")
    reader = ShardReader(corpus / "test")
    rows = [(image, parse_meta(meta)) for image, meta in (reader.read(0, row) for row in range(3))]
    assert [(meta["label"], meta["set"]) for _, meta in rows] == [("red apple", "noto"), ("dog face", "noto"), ("dog", "twemoji")]
    assert len({image for image, _ in rows}) == 3
    assert all(Image.open(io.BytesIO(image)).size == (72, 72) for image, _ in rows)
    left_out = Manifest.load(corpus / "test").info["left_out"]
    assert left_out["skin-tone variants"] == 2 and left_out["regional indicators"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("1f468-200d-2695", "man health worker", 1), ("1f9d1-200d-2695", "health worker", 1)),
        (("1f3c3", "person running", 1), ("1f3c3-200d-2640-200d-27a1", "woman running: facing right", 1)),
        (("1f550", "one o\u2019clock", 5), ("1f566", "eleven-thirty", 5)),
        (("1f934", "prince", 1), ("1f478", "princess", 1)),
        (("1f436", "dog face", 3), ("1f415", "dog", 3)),
        (("1f44d", "thumbs up", 1), ("1f44e", "thumbs down", 1)),
        (("2764", "red heart", 0), ("1f499", "blue heart", 0)),
        (("1f311", "new moon", 5), ("1f31b", "first quarter moon face", 5)),
    ],
)
def test_variants_of_a_subject_are_one_family(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    families = group_families({row[0]: family_keys(*row) for row in (one, other)})
    assert len(set(families.values())) == 1


def test_different_subjects_are_different_families() -> None:
    rows = [
        ("1f415", "dog", 3),
        ("1f408", "cat", 3),
        ("2640", "female sign", 8),
        ("27a1", "right arrow", 8),
        ("1f9d1", "person", 1),
    ]
    assert len(set(group_families({row[0]: family_keys(*row) for row in rows}).values())) == len(rows)
    assert normal_code("2764-FE0F") == "2764" and normal_code("23-20E3") == "0023-20e3"


def test_splits_take_whole_families_of_the_size_asked_for() -> None:
    concepts = [Concept(f"{n}", f"thing {n}", (), "objects", "any", f"family {n // 3}") for n in range(300)]
    concepts += [Concept(f"big{n}", "big", (), "objects", "any", "big family") for n in range(9)]
    split = split_concepts(concepts, seed=1, num_test=60, num_val=30)
    assert [list(split.values()).count(name) for name in ("test", "val", "train")] == [60, 30, 219]
    assert all(len({split[f"{n}"] for n in range(first, first + 3)}) == 1 for first in range(0, 300, 3))
    assert {split[f"big{n}"] for n in range(9)} == {"train"}


def test_captions_begin_with_the_label_and_lose_no_tag_of_a_short_list() -> None:
    concept = Concept("1", "red apple", ("apple", "fruit", "mac", "pie", "tree", "snack"), "food", "any", "1")
    texts = captions(concept, seed=0)
    assert texts[0] == "red apple" and all(text.startswith("red apple, ") for text in texts[1:])
    assert {tag for text in texts[1:] for tag in text.split(", ")[1:]} == {"fruit", "mac", "pie", "tree", "snack"}


def test_a_mirrored_alias_is_drawn_mirrored() -> None:
    icons = {
        "width": 16,
        "height": 16,
        "icons": {"a": {"body": '<rect width="8" height="16"/>'}},
        "aliases": {"b": {"parent": "a", "hFlip": True}},
    }
    a, b = (np.asarray(render_svg(icon_svg(icons, name))) for name in "ab")
    assert (a[:, ::-1] == b).all() and (a != b).any()


def test_a_missing_or_other_package_is_named(sources: Path) -> None:
    write_json(sources / NOTO.folder / "package.json", {"name": NOTO.name, "version": "0.1"})
    with pytest.raises(DataError, match=r"noto 0\.1, not @iconify-json/noto 1\.2\.9"):
        locate(sources)
    (sources / EMOJIBASE.folder / "package.json").unlink()
    with pytest.raises(DataError, match="holds no unpacked emojibase-data"):
        locate(sources)


def test_an_archive_is_checked_before_and_while_it_is_unpacked(tmp_path: Path) -> None:
    import base64
    import hashlib

    archive = tmp_path / "x.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("package/../../evil")
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(DataError, match="not the pinned"):
        unpack(archive, NOTO, tmp_path / "out")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    with pytest.raises(DataError, match="outside its folder"):
        unpack(archive, Package("x", "1", digest), tmp_path / "out")
    assert not (tmp_path / "evil").exists()
