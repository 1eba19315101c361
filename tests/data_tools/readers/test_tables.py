"""Tables as programs write them: only needed columns are read, NaN is missing, and TSV is raw."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef_ds.common.errors import ConfigError, DataError
from data_tools.readers.source import Problems, Record, id_of, id_of_text
from data_tools.stages.catalog import to_table
from tests.data_tools.readers.reading import read


def parquet(target: Path, /, **columns: Any) -> str:
    pq.write_table(pa.table(columns), target)
    return f"x=table:{target}"


def lines_of(path: Path, *lines: bytes) -> str:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return f"x=table:{path}"


def captions(records: list[Record]) -> list[str]:
    return ["|".join(record.captions) for record in records]


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path: Path) -> None:
    odd = {
        "seen": pa.array([1], pa.timestamp("ns")),
        "took": pa.array([1], pa.duration("ns")),
        "cut": pa.array([b"\xff"]),
        "bad": pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]),
        "deep": pa.array([{"a": [1]}]),
    }
    records, _ = read(parquet(tmp_path / "t.PARQUET", path=["0.jpg"], caption=["a cat"], **odd))
    assert captions(records) == ["a cat"]


@pytest.mark.parametrize(
    "texts",
    [
        pa.array([b"a cat", None, b"caf\xe9"], pa.binary()),
        pa.array([b"a cat", None, b"caf\xe9"], pa.large_binary()),
        pa.array([[b"a cat"], None, [b"caf\xe9", b""]], pa.list_(pa.binary())),
        pa.array([b"a cat", None, b"caf\xe9"], pa.binary()).dictionary_encode(),
        pa.Array.from_buffers(
            pa.string(),
            3,
            [
                pa.py_buffer(b"\5"),
                pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 5, 5, 9))),
                pa.py_buffer(b"a catcaf\xe9"),
            ],
        ),
    ],
    ids=["bytes", "large", "lists", "dictionary", "damaged text"],
)
def test_captions_as_bytes_are_decoded_and_what_is_not_utf8_is_counted(tmp_path: Path, texts: pa.Array) -> None:
    records, problems = read(parquet(tmp_path / "t.parquet", path=["0", "1", "2"], caption=texts))
    assert captions(records) == ["a cat", "", "caf\ufffd"]
    assert problems.counts == {"text that is not UTF-8": 1}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": ["a"], "caption": [7]}, "column caption holds int64, not text"),
        ({"path": [7], "caption": ["a"]}, "column path holds int64, not paths"),
        ({"image": [{"bytes": b"\xff"}], "caption": ["a"]}, "holds images inside column image"),
        ({"path": ["a"], "caption": ["a"], "when": [datetime.datetime(2020, 1, 1)]}, "column when holds timestamp"),
        ({"path": ["a"], "caption": ["a"], "when": [float("inf")]}, "column when holds inf"),
    ],
)
def test_columns_of_a_wrong_type_are_one_line(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        read(parquet(tmp_path / "t.parquet", **columns) + ",keep=when" * ("when" in columns))


def test_floats_are_the_ids_that_they_were_and_nan_is_missing(tmp_path: Path) -> None:
    nan = float("nan")
    table = {"path": ["0", "1", "2"], "caption": ["a", "b", "c"], "image_id": [391895.0, nan, 1.5], "score": [nan, 1.0, 2.0]}
    records, _ = read(parquet(tmp_path / "t.parquet", **table) + ",keep=score")
    assert [(r.image_id, r.extra["score"]) for r in records] == [("391895", None), ("", 1.0), ("1.5", 2.0)]
    lists = tmp_path / "l.json"
    lists.write_text('[{"image": "a", "caption": NaN, "image_id": 391895.0}, {"image": "b", "caption": "x", "image_id": NaN}]')
    records, _ = read(f"x=json:{lists}")
    assert [(r.image_id, r.captions, r.missing) for r in records] == [("391895", [], "no caption"), ("", ["x"], "")]
    source = lines_of(tmp_path / "t.csv", b"path,caption,image_id", b"a,x,391895.0", b"b,y,nan", b"c,z,00391895")
    assert [r.image_id for r in read(source)[0]] == ["391895", "", "00391895"]
    assert (id_of(None), id_of("00391895"), id_of(True), id_of_text("1.0.0")) == ("", "00391895", "True", "1.0.0")


def test_raw_tsv_knows_no_quoting(tmp_path: Path) -> None:
    texts = ["plain", '"Hello', 'world"', '"Fresh" bread', 'an inch is 1"', "a\u2028b", 'all "of" it']
    lines = [f"{i}.jpg\t{text}".encode() for i, text in enumerate(texts)]
    records, problems = read(lines_of(tmp_path / "t.TSV", b"\xef\xbb\xbfimage\tcaption", *lines))
    assert captions(records) == [" ".join(text.split()) for text in texts] and not problems.counts


def test_tsv_that_a_program_has_quoted_is_unquoted(tmp_path: Path) -> None:
    rows = [b'"0.jpg"\t"a, cat"', b'1.jpg\t"say ""hi"" to it"']
    assert captions(read(lines_of(tmp_path / "t.tsv", b"image\tcaption", *rows))[0]) == ["a, cat", 'say "hi" to it']


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("t.csv", [b"image,caption", b"0,a", b'1,"b" c', b"2,d"], "line 3 is broken"),
        ("t.csv", [b"image,caption", b"0,a", b'1,"b', b"2,d"], "line 3 is broken"),
        ("t.jsonl", [b'{"image": "0", "caption": "a"}', b"", b'{"image": '], "line 3 is broken"),
        ("t.jsonl", [b"[" * 100_000], "line 1 is broken"),
        ("t.jsonl", [b'{"image": ' + b"1" * 5000 + b"}"], "line 1 is broken"),
        ("t.jsonl", [b"3"], "line 1 is not a JSON object"),
    ],
)
def test_the_line_at_fault_is_named(tmp_path: Path, name: str, lines: list[bytes], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(lines_of(tmp_path / name, *lines))


def test_lines_of_another_length_and_bytes_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    for mark, name in ((b"\t", "t.tsv"), (b",", "t.csv")):
        lines = [
            mark.join(fields) for fields in ([b"image", b"caption"], [b"0", b"a", b"b"], [b"1"], [b"2", b"caf\xe9"], [b"", b"x"])
        ]
        records, problems = read(lines_of(tmp_path / name, *lines))
        assert captions(records) == ["a", "", "caf\ufffd"]
        assert problems.counts == {
            "line with more or fewer columns than the header": 2, "text that is not UTF-8": 1, "row without a path": 1
        }  # fmt: skip


def test_json_lines_with_unusual_separators_inside_a_text_are_whole(tmp_path: Path) -> None:
    line = '{"image": "0.jpg", "caption": "a\u2028b\u0085c\x7fd"}'.encode()
    assert captions(read(lines_of(tmp_path / "t.jsonl", line))[0]) == ["a b c\x7fd"]


def test_paths_that_no_file_can_have_are_missing_and_lone_surrogates_are_counted(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(
        r'[{"image": "a\u0000b", "caption": "x"}, {"image": "\ud800", "caption": "\udfff y"}, {"image": "\u0000"}]'
    )
    records, problems = read(f"x=json:{tmp_path}/l.json")
    assert [record.missing for record in records] == ["path with a NUL", "path that is not UTF-8", "path with a NUL"]
    assert problems.counts == {"caption with a lone surrogate, which is no Unicode": 1}
    assert to_table(records)["captions"].to_pylist() == [["x"], ["? y"], []]


def test_problems_keep_five_examples() -> None:
    problems = Problems()
    for i in range(9):
        problems.add("reason", str(i))
    assert problems.counts == {"reason": 9} and problems.examples == {"reason": list("01234")}
