"""Reads the released ALBEF lists, `[{"image": ..., "caption": ..., "image_id": ...}, ...]`, in bounded memory.

Consecutive entries of one image become one record with all their captions; other entries of the image are joined later, when
their bytes turn out to be equal.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any

from albef_ds.common.errors import DataError
from data_tools.files.storage import list_files, open_source
from data_tools.readers.json_forms import form_of
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list, id_of

_CHUNK = 1 << 20


def parts(spec: SourceSpec) -> list[str]:
    """The JSON files."""
    return list_files(spec.path, (".json",))


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The records of one list. Raises DataError, which names the line, for broken JSON or an entry without an `image`."""
    current: Record | None = None
    for line, entry in iterate_array(part):
        listed = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(listed, str) or not listed:
            raise DataError(f"{part} line {line}: entry {str(entry)[:80]} names no image: give an object with image and caption")
        captions = caption_list(entry.get("caption"))
        image_id = id_of(entry.get("image_id"))
        if current is not None and current.id == listed:
            current.captions.extend(captions)
            continue
        if current is not None:
            yield _checked(current)
        path = spec.resolve(listed, posixpath.dirname(part))
        current = Record(listed, path, -1, -1, captions, image_id)
    if current is not None:
        yield _checked(current)


def _checked(record: Record) -> Record:
    return record if record.captions else record._replace(missing=NO_CAPTION)


def iterate_array(path: str) -> Iterator[tuple[int, Any]]:
    """Yields the elements of the JSON array in `path` with the line each starts on, holding about 1 MB at a time.

    Raises DataError, which names the line, if the file is not an array or is broken.
    """
    decoder = json.JSONDecoder()
    with io.TextIOWrapper(open_source(path), encoding="utf-8-sig") as file:
        buffer, line, at_end, expect = "", 1, False, "["
        while True:
            stripped = buffer.lstrip()
            line += buffer.count("\n", 0, len(buffer) - len(stripped))
            buffer = stripped
            if buffer and expect != "value":
                if buffer[0] == "]" and expect == ",":
                    return
                if buffer[0] == "{" and expect == "[":
                    raise DataError(f"{path} line {line} begins an object, not a list of {{image, caption}}: {form_of(buffer)}")
                if buffer[0] != expect:
                    raise _broken(path, line, f"{expect!r} expected, found {buffer[0]!r}")
                buffer, expect = buffer[1:], "value"
                continue
            if buffer and expect == "value":
                if buffer[0] == "]":
                    return
                try:
                    value, end = decoder.raw_decode(buffer)
                except RecursionError:
                    raise _broken(path, line, "lists nested too deeply") from None
                except json.JSONDecodeError as error:
                    # An error far from the end of the buffer is not caused by its end.
                    if at_end or error.pos < len(buffer) - 2 * _CHUNK:
                        raise _broken(path, line + error.lineno - 1, error.msg) from None
                except ValueError as error:
                    raise _broken(path, line, str(error)) from None
                else:
                    yield line, value
                    line += buffer.count("\n", 0, end)
                    buffer, expect = buffer[end:], ","
                    continue
            if at_end:
                raise _broken(path, line, "the file ends inside the list")
            try:
                more = file.read(max(_CHUNK, len(buffer)))
            except UnicodeDecodeError as error:
                raise _broken(path, line, f"not UTF-8: {error.reason}") from None
            at_end = not more
            buffer += more


def _broken(path: str, line: int, problem: str) -> DataError:
    return DataError(f"{path} line {line} is broken JSON ({problem}): fix the line or fetch the file again")
