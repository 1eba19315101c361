"""Reads the image files named in annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.json_files import require_images
from albef_ds.data.annotations.records import QuestionRecord, Record, StatementRecord
from albef_ds.data.broken import BrokenSampleError


class ImageFiles:
    """Reads the images of records from `data.image_root`, those of VQA questions from Visual Genome from `data.vg_root`."""

    def __init__(self, config: DataConfig) -> None:
        if not config.image_root:
            raise ConfigError("data.image_root is empty: give the folder that the paths in the annotation files start from")
        self.roots = {"": Path(config.image_root), "vg": Path(config.vg_root or config.image_root)}

    def require(self, records: Sequence[Record]) -> None:
        """Raises `DataError` if images are missing; the message has their number."""
        for source, root, setting in (("", self.roots[""], "data.image_root"), ("vg", self.roots["vg"], "data.vg_root")):
            chosen = [record for record in records if self._source(record) == source]
            if chosen:
                require_images(root, (image for record in chosen for image in record_images(record)), setting)

    def read(self, record: Record) -> list[bytes]:
        """Returns the bytes of the record's images. Raises `BrokenSampleError` if a file cannot be read."""
        root = self.roots[self._source(record)]
        try:
            return [(root / image).read_bytes() for image in record_images(record)]
        except OSError as error:
            raise BrokenSampleError("undecodable picture", str(error)) from None

    @staticmethod
    def _source(record: Record) -> str:
        return "vg" if isinstance(record, QuestionRecord) and record.source == "vg" else ""


def record_images(record: Record) -> tuple[str, ...]:
    """Returns the paths of a record's images."""
    return record.images if isinstance(record, StatementRecord) else (record.image,)
