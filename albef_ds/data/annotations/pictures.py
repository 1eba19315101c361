"""Reads the image files that annotations name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.json_files import require_pictures
from albef_ds.data.annotations.records import QuestionRecord, Record, StatementRecord
from albef_ds.data.broken import BrokenSampleError


class Pictures:
    """Reads the pictures that annotations name. `root` of VQA questions from Visual Genome may be another."""

    def __init__(self, config: DataConfig) -> None:
        if not config.image_root:
            raise ConfigError("data.image_root is empty: give the folder that the paths in the annotation files start from")
        self.roots = {"": Path(config.image_root), "vg": Path(config.vg_root or config.image_root)}

    def require(self, records: Sequence[Record]) -> None:
        """Count missing pictures. Raises `DataError` where there is any."""
        for source, root, setting in (("", self.roots[""], "data.image_root"), ("vg", self.roots["vg"], "data.vg_root")):
            chosen = [record for record in records if self._source(record) == source]
            if chosen:
                require_pictures(root, (image for record in chosen for image in record_images(record)), setting)

    def read(self, record: Record) -> list[bytes]:
        """The bytes of the record's pictures.

        Raises:
            BrokenSampleError: a file cannot be read.
        """
        root = self.roots[self._source(record)]
        try:
            return [(root / image).read_bytes() for image in record_images(record)]
        except OSError as error:
            raise BrokenSampleError("undecodable picture", str(error)) from None

    @staticmethod
    def _source(record: Record) -> str:
        return "vg" if isinstance(record, QuestionRecord) and record.source == "vg" else ""


def record_images(record: Record) -> tuple[str, ...]:
    """The pictures a record names."""
    return record.images if isinstance(record, StatementRecord) else (record.image,)
