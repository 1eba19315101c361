"""Caption cleaning as in the released code, so that released weights see the text they were trained on."""

from __future__ import annotations

import re

REMOVED = ",.'!?\"()*#:;~"
"""Characters that are left out."""
_REMOVED = str.maketrans("", "", REMOVED)
_SPACES = re.compile(r"\s{2,}")


def clean_question(question: str) -> str:
    """Returns a question as the released VQA cleans it: as a caption, but `<person>` and runs of spaces stay."""
    return question.lower().translate(_REMOVED).replace("-", " ").replace("/", " ").rstrip(" ")


def clean_caption(caption: str, max_words: int | None = None) -> str:
    """Returns `caption` in lower case, without punctuation, truncated to `max_words` words if given; it may be empty.

    Removes `,.'!?"()*#:;~`, replaces `-` and `/` by spaces and `<person>` by `person`, and collapses runs of spaces.
    """
    caption = caption.lower().translate(_REMOVED).replace("-", " ").replace("/", " ").replace("<person>", "person")
    caption = _SPACES.sub(" ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words]).strip()
