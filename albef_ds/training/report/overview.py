"""Pictures that a run left in its TensorBoard files at its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BoardPicture:
    """One picture: what it shows, the step it was made at, PNG bytes."""

    tag: str
    step: int
    png: bytes


def last_pictures(folder: Path) -> list[BoardPicture]:
    """The newest picture of every tag in the TensorBoard files of `folder`, by tag; empty where there are none."""
    if not any(folder.glob("events.*")):
        return []
    from tensorboard.backend.event_processing import event_accumulator  # start-up time

    events = event_accumulator.EventAccumulator(str(folder), size_guidance={event_accumulator.IMAGES: 1})
    events.Reload()
    found = []
    for tag in sorted(events.Tags()["images"]):
        newest = max(events.Images(tag), key=lambda event: (event.step, event.wall_time))
        found.append(BoardPicture(tag, newest.step, newest.encoded_image_string))
    return found
