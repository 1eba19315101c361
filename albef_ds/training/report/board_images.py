"""Reads the images that evaluations of a run wrote to its TensorBoard files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BoardImage:
    """One image: its tag, the step it was made at, PNG bytes."""

    tag: str
    step: int
    png: bytes


def last_images(folder: Path) -> list[BoardImage]:
    """Returns the newest image of every tag in the TensorBoard files of `folder`, sorted by tag; empty if there are none."""
    if not any(folder.glob("events.*")):
        return []
    from tensorboard.backend.event_processing import event_accumulator  # start-up time

    events = event_accumulator.EventAccumulator(str(folder), size_guidance={event_accumulator.IMAGES: 1})
    events.Reload()
    found = []
    for tag in sorted(events.Tags()["images"]):
        newest = max(events.Images(tag), key=lambda event: (event.step, event.wall_time))
        found.append(BoardImage(tag, newest.step, newest.encoded_image_string))
    return found
