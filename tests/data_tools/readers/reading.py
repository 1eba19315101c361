"""Reads a source as the catalog does."""

from __future__ import annotations

from data_tools.readers import reader_for
from data_tools.readers.source import Problems, Record, SourceSpec
from data_tools.stages.catalog import checked


def read(text: str) -> tuple[list[Record], Problems]:
    """The records of the source `NAME=KIND:PATH[,...]`, and what was counted."""
    spec, problems = SourceSpec.parse(text), Problems()
    reader = reader_for(spec)
    return [checked(record, problems) for part in reader.parts(spec) for record in reader.read(spec, part, problems)], problems
