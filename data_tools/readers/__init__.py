"""Readers: each turns one kind of source into `Record`s, one file (part) at a time.

A reader is two functions: `parts(spec)` lists the files that can be read independently, `read(spec, part, problems)` yields
the records of one. Every listed entry becomes a record, with `missing` set if there is nothing to read; anything else is
counted in `problems`. Readers open no image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from albef_ds.common.errors import ConfigError
from data_tools.readers import corpora, folders, img2dataset, json_lists, official, openclipart, tables, tars, url_lists
from data_tools.readers.source import Problems, Record, SourceSpec

Parts = Callable[[SourceSpec], list[str]]
Read = Callable[[SourceSpec, str, Problems], Iterator[Record]]


@dataclass(frozen=True)
class Reader:
    """One kind of source; `doc` describes its `path`."""

    parts: Parts
    read: Read
    doc: str


READERS: dict[str, Reader] = {
    "json": Reader(
        json_lists.parts, json_lists.read, "list(s) of {image, caption, image_id} as released with ALBEF; a file or a folder"
    ),
    "coco": Reader(official.one_file, official.read_coco, "captions_*.json of COCO; images= its image folder"),
    "visual-genome": Reader(official.one_file, official.read_visual_genome, "region_descriptions.json, second= image_data.json"),
    "sbu": Reader(
        url_lists.parts, url_lists.read_sbu, "..._photo_urls.txt with second= ..._captions.txt, or sbu-captions-all.json"
    ),
    "cc3m": Reader(url_lists.parts, url_lists.read_cc3m, "TSV of caption, URL; images= the downloads, pattern= their names"),
    "cc12m": Reader(url_lists.parts, url_lists.read_cc12m, "TSV of URL, caption; images= the downloads, pattern= their names"),
    "img2dataset": Reader(
        img2dataset.parts, img2dataset.read, "output folder of img2dataset: NNNNN.parquet with NNNNN.tar or NNNNN/"
    ),
    "table": Reader(tables.parts, tables.read, "Parquet, CSV, TSV or JSONL with a path and a caption column; a file or a folder"),
    "folder": Reader(folders.parts, folders.read, "folder of images, each with a .txt or .json of the same name"),
    "webdataset": Reader(tars.parts, tars.read_webdataset, "tar or folder of tars in WebDataset form"),
    "shards": Reader(corpora.parts, corpora.read, "a corpus written by albef-data"),
    "openclipart": Reader(openclipart.parts, openclipart.read, "PNG folder of Debian's openclipart-png, second= the SVG folder"),
}


def reader_for(spec: SourceSpec) -> Reader:
    """The reader of `spec.kind`. Raises ConfigError if the kind is unknown."""
    if spec.kind not in READERS:
        raise ConfigError(f"source {spec.name} has the unknown kind {spec.kind!r}: use one of {', '.join(READERS)}")
    return READERS[spec.kind]
