"""Writes the demonstration's page: one self-contained HTML file, which needs no network or scripts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape

from albef_ds.cli.demo.plots import DARK, LIGHT, curves_png
from albef_ds.cli.demo.results import SPLITS, DemoReport, Example, Item, table
from albef_ds.common.html import data_url, document, facts, note, text_table

_STYLE = """
.rank { color: var(--muted); }
tr.chance td { color: var(--muted); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(31rem, 1fr)); gap: .5rem 2rem; }
.answers { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 1rem; align-items: center; }
.query { text-align: right; line-height: 1.25; } .rank { display: block; font-size: .8rem; }
.images { display: flex; gap: .3rem; }
img.emoji { width: 56px; height: 56px; background: #fff; border: 3px solid transparent; border-radius: 6px; display: block; }
img.right { border-color: var(--right); }
.words { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.25rem 1.5rem; }
.words > div { display: flex; gap: .9rem; } .words ol { margin: 0; padding-left: 1.2rem; font-size: .92rem; }
li.right { color: var(--right); font-weight: 600; }
.curves { width: 100%; height: auto; }
@media (max-width: 36rem) { .grid { grid-template-columns: 1fr; } .answers { grid-template-columns: 1fr; gap: .25rem; }
  .query { text-align: left; } img.emoji { width: 48px; height: 48px; } }
"""


def build_page(report: DemoReport) -> str:
    """The page as HTML."""
    return document("ALBEF on the emoji corpus", _body(report), _STYLE)


def _body(report: DemoReport) -> Iterator[str]:
    yield "<h1>ALBEF on the emoji corpus</h1>"
    yield "<p>A small ALBEF, trained on images and their names, retrieves concepts that were held out of the training.</p>"
    yield facts(report.facts)
    yield "<h2>Text to image</h2>"
    yield note(report.text_to_image.caption("queries") + f" The right image is outlined. Examples are {report.order}.")
    yield '<div class="grid">' + "".join(map(_text_example, report.text_to_image.examples)) + "</div>"
    yield "<h2>Image to text</h2>"
    yield note(report.image_to_text.caption("images") + " The right name is green.")
    yield '<div class="words">' + "".join(map(_image_example, report.image_to_text.examples)) + "</div>"
    yield "<h2>Recall beside chance</h2>"
    yield note("Per cent of queries with the right answer among the first 1, 5, 10. Ties count against the model.")
    for split, metrics in sorted(report.metrics.items(), key=lambda item: ("test", "flags", "val").index(item[0])):
        yield _table(split, metrics)
    yield "<h2>Training</h2>"
    yield note(
        "The dashed lines show a model that has learned only that two of three matching pairs are wrong. "
        "Matching accuracy above 2/3 says that the multimodal encoder has begun to compare words with images. The contrastive "
        "loss rises at first because the queue of further negatives fills up."
    )
    yield _curves(report)
    if report.files:
        yield "<h2>Files of the run</h2>" + text_table(report.files)


def _emoji(item: Item, *, alt: str, outlined: bool) -> str:
    assert item.image is not None
    buffer = io.BytesIO()
    item.image.save(buffer, "PNG", optimize=True)
    name = "emoji right" if outlined else "emoji"
    return f'<img class="{name}" alt="{escape(alt)}" title="{escape(alt)}" src="{data_url(buffer.getvalue())}">'


def _rank(example: Example) -> str:
    return f'<span class="rank">{example.rank_text}</span>'


def _text_example(example: Example) -> str:
    images = "".join(_emoji(item, alt=item.text, outlined=item.right) for item in example.answers)
    query = f'<div class="query">{escape(example.query.text)}{_rank(example)}</div>'
    return f'<div class="answers">{query}<div class="images">{images}</div></div>'


def _image_example(example: Example) -> str:
    items = "".join(f"<li{' class=right' if item.right else ''}>{escape(item.text)}</li>" for item in example.answers)
    return f"<div>{_emoji(example.query, alt='query', outlined=False)}<div><ol>{items}</ol>{_rank(example)}</div></div>"


def _table(split: str, metrics: dict[str, float]) -> str:
    sizes = f"{metrics['retrieval/num_images']:.0f} images, {metrics['retrieval/num_captions']:.0f} names"
    sides = "".join(f'<th colspan="3">{side}</th>' for side in ("image to text", "text to image"))
    head = f"<tr><th></th>{sides}</tr><tr><th></th>{'<th>R@1</th><th>R@5</th><th>R@10</th>' * 2}</tr>"
    rows = "".join(
        f"<tr{' class=chance' if name == 'chance' else ''}><td>{escape(name)}</td>"
        f"{''.join(f'<td>{value:.1f}</td>' for value in values)}</tr>"
        for name, values in table(metrics)
    )
    title = f"<h3>{split}: {sizes} ({escape(SPLITS[split])})</h3>"
    return f'{title}<div class="wide"><table>{head}{rows}</table></div>'


def _curves(report: DemoReport) -> str:
    light, dark = (data_url(curves_png(report.history, theme)) for theme in (LIGHT, DARK))
    alt = "Losses and matching accuracy over the steps of the run"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="curves" alt="{alt}" src="{light}"></picture>'
    )
