"""Which members of a tar in WebDataset form belong to one sample. Keys may contain dots, unlike webdataset's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

Group = TypeVar("Group")
_WORDS = re.compile(r"(\.[A-Za-z_]+)*")


class GroupFacts(NamedTuple):
    """The key of a group of members (their name up to the last dot), and whether it has an image and a caption."""

    key: str
    has_image: bool
    has_caption: bool


def join_compound_endings(
    groups: Iterable[Group], facts_of: Callable[[Group], GroupFacts], join: Callable[[str, list[Group]], Group]
) -> Iterator[Group]:
    """Yields `groups`, of which those are joined whose keys differ by words of a compound ending only.

    `0.image.jpg` and `0.caption.txt` are one sample: in a run of groups whose keys are the same up to the first dot of the base
    name, only one has an image, that one has no caption of its own, and all that follows the first dot is words. Where several
    groups of a run have an image (`a.1.jpg`, `a.2.jpg`), the dots belong to the keys.

    Args:
        groups: in the order of the tar.
        facts_of: facts of a group.
        join: makes one group, of the given key, of several.
    """
    run: list[Group] = []
    run_key, images = "", 0
    for group in groups:
        facts = facts_of(group)
        short = _short_key(facts.key)
        if short != run_key:
            yield from _joined(run, run_key, facts_of, join)
            run, run_key, images = [], short, 0
        images += facts.has_image
        run.append(group)
        if images > 1:
            yield from run
            run = []
    yield from _joined(run, run_key, facts_of, join)


def _short_key(key: str) -> str:
    folder, slash, base = key.rpartition("/")
    head, dot, _ = base.partition(".")
    return f"{folder}{slash}{head}" if dot and head else key


def _joined(
    run: list[Group], run_key: str, facts_of: Callable[[Group], GroupFacts], join: Callable[[str, list[Group]], Group]
) -> list[Group]:
    facts = [facts_of(group) for group in run]
    with_image = [fact for fact in facts if fact.has_image]
    if len(run) < 2 or len(with_image) != 1 or with_image[0].has_caption:
        return run
    if not all(_WORDS.fullmatch(fact.key[len(run_key) :]) for fact in facts):
        return run
    return [join(run_key, run)]
