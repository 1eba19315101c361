"""Every reader lists every entry of its format, with nothing lost and the identity of each kept apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef_ds.common.errors import ConfigError, DataError, UserError
from data_tools.files.shard_writer import ShardWriter
from data_tools.files.storage import ByteReader
from data_tools.readers import reader_for
from data_tools.readers.json_lists import iterate_array
from data_tools.readers.openclipart import read_rdf
from data_tools.readers.source import Record, SourceSpec
from data_tools.readers.url_lists import fill_pattern
from data_tools.stages.catalog import to_table
from tests.data_tools.readers.reading import read
from tests.data_tools.sample_images import jpeg, tar_of


def test_released_list_keeps_every_caption_of_a_picture_and_remaps_paths(tmp_path: Path) -> None:
    entries = [
        {"image": "/export/share/coco/a.jpg", "caption": "one", "image_id": 7},
        {"image": "/export/share/coco/a.jpg", "caption": ["two", " "]},
        {"image": "vg/b.jpg", "caption": ["three", "four"]},
        {"image": "vg/c.jpg", "caption": ""},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    records, _ = read(f"x=json:{tmp_path}/list.json,remap=/export/share/=>/data/,images=/root")
    assert [(r.path, r.captions, r.image_id, r.missing) for r in records] == [
        ("/data/coco/a.jpg", ["one", "two"], "7", ""),
        ("/root/vg/b.jpg", ["three", "four"], "", ""),
        ("/root/vg/c.jpg", [], "", "no caption"),
    ]


@pytest.mark.parametrize("indent", [None, 1])
def test_lists_larger_than_the_read_buffer_are_read_whole_with_true_lines(tmp_path: Path, indent: int | None) -> None:
    entries = [{"image": f"{i}.jpg", "caption": "x" * (3_000_000 if i == 5 else 2000)} for i in range(2000)]
    (tmp_path / "list.json").write_text(json.dumps(entries, indent=indent))
    found = list(iterate_array(str(tmp_path / "list.json")))
    assert [entry for _, entry in found] == entries
    assert [line for line, _ in found] == [1 if indent is None else 2 + 4 * i for i in range(2000)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[\n{"image": "a", "caption": "b"},\n{"image": "c" "caption": "d"}\n]', "line 3"),
        ('[\n{"image": "a"},\n', "line 3"),
        ('[{"image": "a"} {"image": "b"}]', "line 1"),
        ('{"image": "a"}', "line 1"),
        ("", "line 1"),
        ('[{"caption": "no image"}]', "names no image"),
        ("[3]", "names no image"),
    ],
)
def test_a_broken_list_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read(f"x=json:{tmp_path}/list.json")


def test_coco_captions_join_their_picture(tmp_path: Path) -> None:
    raw = {
        "images": [{"id": 391895, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 391895, "caption": c} for c in "pq"] + [{"image_id": 99, "caption": "lost"}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(raw))
    records, problems = read(f"coco=coco:{tmp_path}/captions.json,images=/coco")
    assert [(r.path, r.captions, r.missing) for r in records] == [
        ("/coco/a.jpg", ["p", "q"], ""),
        ("/coco/b.jpg", [], "no caption"),
    ]
    assert records[0].extra["coco_id"] == 391895
    assert problems.counts == {"annotation of an unlisted picture": 1}


def test_visual_genome_phrases_join_their_picture_with_its_coco_id(tmp_path: Path) -> None:
    images = [
        {"image_id": 1, "url": "https://h/x/VG_100K_2/1.jpg", "coco_id": 5},
        {"image_id": 2, "url": "u/VG_100K/2.jpg", "coco_id": None},
    ]
    regions = [{"id": 1, "regions": [{"phrase": "a red car"}, {"phrase": "a red car"}, {"phrase": "sky"}]}]
    (tmp_path / "images.json").write_text(json.dumps(images))
    (tmp_path / "regions.json").write_text(json.dumps(regions))
    records, _ = read(f"vg=visual-genome:{tmp_path}/regions.json,second={tmp_path}/images.json,images=/vg")
    assert [(r.path, r.captions, dict(r.extra), r.missing) for r in records] == [
        ("/vg/VG_100K_2/1.jpg", ["a red car", "sky"], {"coco_id": 5}, ""),
        ("/vg/VG_100K/2.jpg", [], {}, "no caption"),
    ]
    with pytest.raises(ConfigError, match="second="):
        read(f"vg=visual-genome:{tmp_path}/regions.json")


def test_url_lists_find_their_downloads_by_line_and_keep_lines_without_a_tab(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text("a cat\thttp://x/cat.jpg?s=1\nbroken line\na dog\thttp://x/dog.jpg\n")
    records, problems = read(f"cc3m=cc3m:{tmp_path}/cc3m.tsv,images=/d,pattern={{index:4}}.jpg")
    assert [(r.path, r.captions) for r in records][::2] == [("/d/0000.jpg", ["a cat"]), ("/d/0002.jpg", ["a dog"])]
    assert problems.counts == {"line without a tab": 1}
    (tmp_path / "cc12m.tsv").write_text("http://x/cat.jpg\ta cat\n")
    records, _ = read(f"cc12m=cc12m:{tmp_path}/cc12m.tsv,images=/d,pattern={{basename}}")
    assert (records[0].path, records[0].captions) == ("/d/cat.jpg", ["a cat"])
    (tmp_path / "urls.txt").write_text("http://x/1.jpg\nhttp://x/2.jpg\n")
    (tmp_path / "captions.txt").write_text("one\ntwo\n")
    records, _ = read(f"sbu=sbu:{tmp_path}/urls.txt,second={tmp_path}/captions.txt,pattern={{index}}.jpg")
    assert [r.captions for r in records] == [["one"], ["two"]]
    (tmp_path / "captions.txt").write_text("one\n")
    with pytest.raises(DataError, match="differ in length at line 2"):
        read(f"sbu=sbu:{tmp_path}/urls.txt,second={tmp_path}/captions.txt,pattern={{index}}.jpg")


def test_a_pattern_is_filled_and_never_evaluated() -> None:
    assert fill_pattern("{index.__class__}/{index:3}-{basename}", 7, "http://h/a/b.jpg?q") == "{index.__class__}/007-b.jpg"


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(rows[0])] + [mark.join(f'"{value}"' for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl"])
def test_tables_of_each_format_give_the_same_records(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    write_table(path, [{"path": "a.jpg", "text": "a, cat"}, {"path": "b.jpg", "text": "dog"}])
    records, _ = read(f"x=table:{path},images=/i")
    assert [(r.path, r.captions) for r in records] == [("/i/a.jpg", ["a, cat"]), ("/i/b.jpg", ["dog"])]
    with pytest.raises(ConfigError, match=r"no column lable, only path, text: add caption_column"):
        read(f"x=table:{path},caption_column=lable")


def test_a_cut_parquet_file_and_a_broken_line_are_refused_by_name(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", [{"path": "a", "text": "b"}])
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole Parquet"):
        read(f"x=table:{tmp_path}/a.parquet")
    (tmp_path / "a.jsonl").write_text('{"path": "a", "text": "b"}\n{"path":\n')
    with pytest.raises(DataError, match="line 2"):
        read(f"x=table:{tmp_path}/a.jsonl")


def test_a_folder_is_walked_and_pictures_of_one_base_name_stay_apart(tmp_path: Path) -> None:
    for name in ("x/1.jpg", "y/1.jpg", "y/2.PNG", "y/note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "x/1.txt").write_text("first\nsecond\n")
    (tmp_path / "y/1.json").write_text('{"caption": "third"}')
    (tmp_path / "y/2.json").write_text("{")
    records, problems = read(f"x=folder:{tmp_path}")
    assert [(r.id, r.captions) for r in records] == [("x/1.jpg", ["first", "second"]), ("y/1.jpg", ["third"]), ("y/2.PNG", [])]
    assert problems.counts == {"unreadable sidecar": 1}


def test_webdataset_tars_with_every_oddity_lose_no_sample(tmp_path: Path) -> None:
    long = "n" * 300
    members = [
        ("a.b.c.jpg", b"1"), ("a.b.c.txt", b"dots"),
        ("dir1/k.jpg", b"22"), ("dir1/k.json", b'{"caption": "from json"}'),
        ("dir2/k.jpg", b"333"), ("dir2/k.txt", b"other folder"),
        ("dir2/k.jpg", b"4444"), ("dir2/k.txt", b"again"),
        ("/abs.jpg", b"x"), ("../up.jpg", b"x"),
        (f"{long}.jpg", b"55555"), (f"{long}.txt", b"long"),
        ("bare.txt", b"no picture"),
        ("plain.jpg", b"666666"),
        ("bad.jpg", b"7"), ("bad.json", b"{"),
    ]  # fmt: skip
    tar_of(tmp_path / "t.tar", members)
    records, problems = read(f"x=webdataset:{tmp_path}/t.tar")
    got = [(r.id.removeprefix("t.tar!"), ByteReader().read(r.path, r.offset, r.size), r.captions) for r in records]
    assert got == [
        ("a.b.c.jpg", b"1", ["dots"]),
        ("dir1/k.jpg", b"22", ["from json"]),
        ("dir2/k.jpg", b"333", ["other folder"]),
        ("dir2/k.jpg#2", b"4444", ["again"]),
        (f"{long}.jpg", b"55555", ["long"]),
        ("plain.jpg", b"666666", []),
        ("bad.jpg", b"7", []),
    ]
    assert problems.counts == {
        "unsafe member name": 2, "key that comes again": 1, "key without a picture": 1, "broken JSON member": 1
    }  # fmt: skip


def test_a_tar_that_is_cut_off_gives_what_is_whole_and_is_counted(tmp_path: Path) -> None:
    tar_of(tmp_path / "t.tar", [(f"{i}.{e}", b"x" * 900) for i in range(5) for e in ("jpg", "txt")])
    (tmp_path / "t.tar").write_bytes((tmp_path / "t.tar").read_bytes()[: 512 * 10])
    records, problems = read(f"x=webdataset:{tmp_path}/t.tar")
    assert len(records) >= 1 and problems.counts["tar cut off or damaged"] == 1


def test_img2dataset_output_keeps_its_failed_rows_as_missing(tmp_path: Path) -> None:
    rows = [
        {"url": "u0", "caption": "zero", "key": "000000000", "status": "success"},
        {"url": "u1", "caption": "one", "key": "000000001", "status": "failed_to_download"},
        {"url": "u2", "caption": "two", "key": "000000002", "status": "success"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    tar_of(tmp_path / "00000.tar", [("000000000.jpg", b"abc"), ("000000000.txt", b"zero"), ("000000000.json", b"{}")])
    records, _ = read(f"cc=img2dataset:{tmp_path}")
    assert [(r.captions, r.missing) for r in records] == [
        (["zero"], ""), (["one"], "failed to download"), (["two"], "not in the tar")
    ]  # fmt: skip
    assert ByteReader().read(records[0].path, records[0].offset, records[0].size) == b"abc"


def test_our_own_shards_are_read_with_their_identity(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, samples_per_shard=2) as writer:
        for i in range(3):
            writer.add(jpeg(i), "jpg", {"captions": [f"c{i}"], "image_id": f"s/{i}", "source": "s", "url": "u"})
    records, _ = read(f"old=shards:{tmp_path}")
    assert [(r.image_id, r.captions, r.extra["source"], r.id) for r in records] == [
        (f"s/{i}", [f"c{i}"], "s", f"0000{i // 2}.tar!00000000{i}") for i in range(3)
    ]
    assert ByteReader().read(records[2].path, records[2].offset, records[2].size) == jpeg(2)


def test_remote_tars_and_lists_are_read_through_fsspec() -> None:
    with fsspec.open("memory://bucket/l.json", "w") as file:
        file.write('[{"image": "a.jpg", "caption": "x"}]')
    with fsspec.open("memory://bucket/a.jpg", "wb") as file:
        file.write(b"picture")
    records, _ = read("x=json:memory://bucket/l.json")
    assert ByteReader().read(records[0].path) == b"picture"
    assert ByteReader().read(records[0].path, 2, 3) == b"ctu"


def test_rdf_text_is_found_in_files_that_are_not_well_formed() -> None:
    svg = """<svg><metadata><rdf:RDF><cc:Work><dc:title>A &amp; B</dc:title><dc:description></dc:description>
    <dc:subject><rdf:Bag><rdf:li>fruit</rdf:li><rdf:li>apple</rdf:li></rdf:Bag></dc:subject><br>
    <cc:license rdf:resource="http://l/PublicDomain"/></cc:Work></rdf:RDF></metadata><unclosed></svg>"""
    assert read_rdf(svg) == (["A & B", "fruit, apple"], "http://l/PublicDomain")
    assert read_rdf("<svg/>") == ([], "")


def test_captions_with_lone_surrogates_do_not_stop_the_catalog() -> None:
    table = to_table([Record("a", "a", -1, -1, ["bad \ud800 text"])])
    assert table["captions"].to_pylist() == [["bad ? text"]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SourceSpec.parse("coco"), "NAME=KIND:PATH"),
        (lambda: SourceSpec.parse("coco=json:"), "has no path"),
        (lambda: SourceSpec.parse("coco=json:a,colour=red"), "field colour is unknown"),
        (lambda: SourceSpec.parse("coco=json:a,remap=x"), "OLD=>NEW"),
        (lambda: SourceSpec.from_dict({"name": "a", "kind": "json"}), "lacks path"),
        (lambda: reader_for(SourceSpec("a", "xml", "p")), "unknown kind 'xml'"),
        (lambda: read("x=json:/does/not/exist"), "no .json file"),
        (lambda: read("x=folder:/does/not/exist"), "not a local folder"),
        (lambda: read("x=cc3m:/etc/hosts"), "no .tsv"),
    ],
)
def test_mistakes_in_a_source_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()
