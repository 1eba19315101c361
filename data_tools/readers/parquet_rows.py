"""Reads chosen columns of a Parquet file as rows of plain Python values: text, numbers and lists of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from albef_ds.common.errors import DataError, UserError
from data_tools.files.storage import open_source
from data_tools.readers.source import Problems, text_of

_BATCH = 4096


class TableFaultError(DataError):
    """The file is not a whole Parquet file."""


_TEXT: tuple[Callable[[pa.DataType], bool], ...] = (
    kinds.is_string,
    kinds.is_large_string,
    kinds.is_binary,
    kinds.is_large_binary,
)
_NUMBERS: tuple[Callable[[pa.DataType], bool], ...] = (kinds.is_integer, kinds.is_floating, kinds.is_boolean)


def is_text(kind: pa.DataType, *, lists: bool = False) -> bool:
    """True for a column of texts (as strings or bytes), one without any value, and with `lists` one of lists of texts."""
    if kinds.is_dictionary(kind):
        return is_text(kind.value_type)
    if lists and (kinds.is_list(kind) or kinds.is_large_list(kind)):
        return is_text(kind.value_type)
    return kinds.is_null(kind) or any(check(kind) for check in _TEXT)


def is_json(kind: pa.DataType) -> bool:
    """True for a column whose values JSON can hold: texts, numbers, and lists of them."""
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return is_json(kind.value_type)
    return is_text(kind) or any(check(kind) for check in _NUMBERS)


def parquet_rows(part: str, choose: Callable[[pa.Schema], list[str]], problems: Problems) -> Iterator[dict[str, Any]]:
    """Yields a dict per row of the columns that `choose` names by the schema; no other column is read.

    Bytes are decoded as UTF-8, and what is not UTF-8 is counted. Raises TableFaultError for a damaged file, and as `choose`.
    """
    try:
        with open_source(part) as file:
            table = pq.ParquetFile(file)
            names = list(dict.fromkeys(choose(table.schema_arrow)))
            for batch in table.iter_batches(batch_size=_BATCH, columns=names):
                columns = [_values(batch.column(name), problems, f"{part} column {name}") for name in names]
                for row in zip(*columns, strict=True):
                    yield dict(zip(names, row, strict=True))
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, pa.ArrowException):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TableFaultError(f"{part} is not a whole Parquet file ({reason}): fetch it again") from None


def _values(column: pa.Array, problems: Problems, where: str) -> list[Any]:
    kind = column.type
    if kinds.is_dictionary(kind):
        return _values(column.dictionary_decode(), problems, where)
    if (kinds.is_list(kind) or kinds.is_large_list(kind)) and is_text(kind.value_type):
        offsets, flat = column.offsets.to_pylist(), _values(column.values, problems, where)
        valid = column.is_valid().to_pylist()
        return [flat[low:high] if whole else None for low, high, whole in zip(offsets, offsets[1:], valid, strict=False)]
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        try:
            texts: list[Any] = column.to_pylist()
            return texts
        except UnicodeDecodeError:
            column = column.cast(pa.large_binary())
    if kinds.is_binary(column.type) or kinds.is_large_binary(column.type):
        return [None if raw is None else text_of(raw, problems, where) for raw in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values
