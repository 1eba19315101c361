"""Every form that img2dataset writes is read, or one line says where the pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import ByteReader
from tests.data_tools.readers.reading import read
from tests.data_tools.sample_images import tar_of

Row = tuple[str, str | None, str]
ROWS: list[Row] = [("000000000", "a cat", "success"), ("000000001", None, "success"), ("000000002", "a dog", "failed_to_resize")]


def table(path: Path, rows: list[Row] = ROWS, **more: Any) -> None:
    keys, texts, status = zip(*rows, strict=True)
    pq.write_table(
        pa.table(
            {"url": [f"u{k}" for k in keys], "caption": pa.array(texts, pa.string()), "key": keys, "status": status, **more}
        ),
        path,
    )


def shard(folder: Path, form: str, stem: str = "00000") -> None:
    """The pictures of the two rows that succeeded, with their texts."""
    if form == "tar":
        first = [("000000000.jpg", b"\0"), ("000000000.txt", b"a cat"), ("000000000.json", b"{}")]
        tar_of(folder / f"{stem}.tar", [*first, ("000000001.jpg", b"\1"), ("000000001.txt", b"")])
        return
    (folder / stem).mkdir()
    for i, text in enumerate((b"a cat", b"")):
        (folder / stem / f"00000000{i}.{form}").write_bytes(bytes([i]))
        (folder / stem / f"00000000{i}.txt").write_bytes(text)


def found(folder: Path) -> tuple[list[tuple[list[str], str, bytes]], dict[str, int]]:
    records, problems = read(f"x=img2dataset:{folder}")
    reader = ByteReader()
    got = [(r.captions, r.missing, b"" if r.missing else reader.read(r.path, r.offset, r.size)) for r in records]
    return got, dict(problems.counts)


@pytest.mark.parametrize("form", ["tar", "jpg", "png", "webp"])
def test_webdataset_and_files_output_give_the_same_pairs(tmp_path: Path, form: str) -> None:
    table(tmp_path / "00000.parquet")
    shard(tmp_path, form)
    (tmp_path / "00000_stats.json").write_text("{}")
    assert found(tmp_path) == ([(["a cat"], "", b"\0"), ([], "no caption", b""), (["a dog"], "failed to resize", b"")], {})


@pytest.mark.parametrize("form", ["tar", "png"])
@pytest.mark.parametrize("state", ["gone", "empty", "cut"])
def test_a_shard_whose_table_is_lost_is_read_by_its_own_files(tmp_path: Path, form: str, state: str) -> None:
    shard(tmp_path, form)
    path = tmp_path / "00000.parquet"
    if state != "gone":
        table(path)
        path.write_bytes(path.read_bytes()[: 0 if state == "empty" else -30])
    got, counts = found(tmp_path)
    assert (["a cat"], "", b"\0") in got
    (reason,) = [reason for reason in counts if "read by its own files" in reason]
    assert counts[reason] == 1


def test_what_is_missing_on_either_side_is_counted(tmp_path: Path) -> None:
    table(tmp_path / "00000.parquet", [ROWS[0], ("000000009", "not there", "success")])
    shard(tmp_path, "tar")
    table(tmp_path / "00001.parquet", [ROWS[0]])
    (tmp_path / "00002.parquet").touch()
    got, counts = found(tmp_path)
    assert [missing for _, missing, _ in got] == ["", "not in the tar", "no tar or folder beside the table"]
    assert counts["picture without a row in the table"] == 1 and counts["table that cannot be read, without a tar or folder"] == 1


def test_keys_that_were_saved_as_numbers_still_match(tmp_path: Path) -> None:
    table(tmp_path / "00000.parquet", [(0, "a cat", "success"), (1, "a dog", "success")])  # type: ignore[list-item]
    shard(tmp_path, "tar")
    assert [captions for captions, _, _ in found(tmp_path)[0]] == [["a cat"], ["a dog"]]


def test_a_table_without_captions_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["000000000"], "status": ["success"]}), tmp_path / "00000.parquet")
    shard(tmp_path, "tar")
    got, counts = found(tmp_path)
    assert got == [([], "no caption", b"")] and counts["table without a caption column (caption_column= names one)"] == 1


def test_forms_that_hold_the_pictures_elsewhere_are_one_line(tmp_path: Path) -> None:
    table(tmp_path / "00000.parquet", [ROWS[0]], jpg=[b"picture"])
    with pytest.raises(DataError, match=r"in its column jpg \(output_format=parquet\)"):
        read(f"x=img2dataset:{tmp_path}")
    table(tmp_path / "00000.parquet", [ROWS[0]])
    with pytest.raises(ConfigError, match="no column lable"):
        read(f"x=img2dataset:{tmp_path},caption_column=lable")
    (tmp_path / "00000.tfrecord").touch()
    with pytest.raises(DataError, match="tfrecord output"):
        read(f"x=img2dataset:{tmp_path}")
    with pytest.raises(DataError, match="holds no shard of img2dataset"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "a.parquet").touch()
        read(f"x=img2dataset:{tmp_path}/other")
