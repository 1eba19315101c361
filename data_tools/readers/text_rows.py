"""Reads CSV, TSV and JSON lines as rows, each with its line, and names the line that is at fault."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from albef_ds.common.errors import DataError
from data_tools.files.storage import open_source
from data_tools.readers.source import Problems, text_of

Row = tuple[int, dict[str, Any]]
"""Line of the file, from 1, and the columns by name."""
_FIX = "fix the line or fetch the file again"


def jsonl_rows(part: str, problems: Problems) -> Iterator[Row]:
    """The objects of a file of JSON lines. Raises DataError for a line that is not one."""
    for number, line in lines(part, problems):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{part} line {number} is broken ({error}): {_FIX}") from None
            if not isinstance(row, dict):
                raise DataError(f"{part} line {number} is not a JSON object: fix it")
            yield number, row


def tsv_rows(part: str, problems: Problems) -> Iterator[Row]:
    """The rows of a TSV under its header, raw as in CC3M: a quotation mark is a character like others.

    Programs that quote TSV leave signs that raw text does not have: every field of a row is in quotation marks, or one in
    quotation marks has them doubled inside. Such fields are unquoted.
    """
    header: list[str] = []
    for number, line in lines(part, problems):
        fields = _unquoted(line.split("\t"))
        if not header:
            header = fields
        elif line:
            yield from _row(header, fields, number, problems)


def csv_rows(part: str, problems: Problems) -> Iterator[Row]:
    """The rows of a CSV under its header. Raises DataError, which names the row's first line, for broken quoting."""
    with io.TextIOWrapper(open_source(part), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] = []
        number = 1
        try:
            for fields in reader:
                fields = [_checked(field, problems, f"{part} line {number}") for field in fields]
                if not header:
                    header = fields
                elif fields:
                    yield from _row(header, fields, number, problems)
                number = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{part} line {number} is broken ({error}): fix the line or its quotation marks") from None


def lines(part: str, problems: Problems) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text, numbered from 1, without their ends; bytes that are not UTF-8 are replaced and counted."""
    with open_source(part) as file:
        for number, raw in enumerate(file, start=1):
            yield number, text_of(raw, problems, f"{part} line {number}").rstrip("\r\n")


def _checked(field: str, problems: Problems, where: str) -> str:
    return field if field.isascii() else text_of(field.encode("utf-8", "surrogateescape"), problems, where)


def _row(header: list[str], fields: list[str], number: int, problems: Problems) -> Iterator[Row]:
    if len(fields) != len(header):
        problems.add("line with more or fewer columns than the header", f"line {number}: {len(fields)} of {len(header)}")
    values: list[str | None] = [*fields, *[None] * (len(header) - len(fields))]
    yield number, dict(zip(header, values, strict=False))


def _unquoted(fields: list[str]) -> list[str]:
    inner = [_between_quotes(field) for field in fields]
    if all(text is not None for text in inner):
        return [text.replace('""', '"') for text in inner if text is not None]
    pairs = zip(fields, inner, strict=True)
    return [text.replace('""', '"') if text is not None and '""' in text else field for field, text in pairs]


def _between_quotes(field: str) -> str | None:
    """The text of a field in quotation marks, inside which they are doubled; None if it is no such field."""
    text = field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else '"'
    return None if '"' in text.replace('""', "") else text
