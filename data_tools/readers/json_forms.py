"""Names the published form of a JSON file that was given to the wrong reader, and what reads it."""

from __future__ import annotations

_FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ('"sentences"', '"split"'),
        "this is Karpathy's dataset_*.json, which retrieval reads (data.annotations); for a corpus write the images of its train "
        "and restval splits as a list of {image, caption}, or give COCO's captions_*.json to the kind coco",
    ),
    (('"annotations"', '"images"'), "this looks like COCO's captions_*.json, which the kind coco reads"),
    (('"annotations"', '"caption"'), "this looks like COCO's captions_*.json, which the kind coco reads"),
    (('"image_urls"',), "this looks like sbu-captions-all.json, which the kind sbu reads"),
    (('"regions"', '"phrase"'), "this looks like Visual Genome's region_descriptions.json, which the kind visual-genome reads"),
    (('"questions"',), "these are questions of VQA, which are no corpus"),
    (('"image"', '"caption"'), "these are JSON lines, which the kind table reads under the ending .jsonl"),
)


def form_of(text: str) -> str:
    """What the beginning of a JSON file looks like, and the kind of source that reads it."""
    for marks, form in _FORMS:
        if all(mark in text for mark in marks):
            return form
    return "give a list, or the kind of source that reads this file (`albef-data catalog --help` names them)"
