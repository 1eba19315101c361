"""The demonstration's page: one HTML file with everything inside it, readable without a network or scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from albef_ds.demo.plots import DARK, LIGHT, curves_png
from albef_ds.demo.report import SPLITS, Example, Item, Report, table
from albef_ds.whole_file import write_whole

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --muted: #656d76; --line: #e4e7eb; --right: #1a7f37; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e6e8ea; --muted: #9aa2ab; --line: #2c3138; --right: #4fbf67; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 3rem auto;
  padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .25rem; }
p, .note { max-width: 46rem; }
.note, dt, th, .rank { color: var(--muted); }
.note { margin: 0 0 1rem; font-size: .92rem; }
dl { display: flex; flex-wrap: wrap; gap: .3rem 1.75rem; margin: 0; font-size: .92rem; }
dl div { display: flex; gap: .4rem; } dt, dd { margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1.5rem; }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; } .wide { overflow-x: auto; } td { white-space: nowrap; }
tr.chance td { color: var(--muted); } .files td { text-align: left; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(31rem, 1fr)); gap: .5rem 2rem; }
.answers { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 1rem; align-items: center; }
.query { text-align: right; line-height: 1.25; } .rank { display: block; font-size: .8rem; }
.pictures { display: flex; gap: .3rem; }
img.emoji { width: 56px; height: 56px; background: #fff; border: 3px solid transparent; border-radius: 6px; display: block; }
img.right { border-color: var(--right); }
.words { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.25rem 1.5rem; }
.words > div { display: flex; gap: .9rem; } .words ol { margin: 0; padding-left: 1.2rem; font-size: .92rem; }
li.right { color: var(--right); font-weight: 600; }
.curves { width: 100%; height: auto; }
code { font-size: .9em; }
@media (max-width: 36rem) { .grid { grid-template-columns: 1fr; } .answers { grid-template-columns: 1fr; gap: .25rem; }
  .query { text-align: left; } img.emoji { width: 48px; height: 48px; } }
"""


def write_page(report: Report, path: Path) -> None:
    """Write the page to `path`: temporary name, then rename."""
    write_whole(path, build_page(report).encode())


def build_page(report: Report) -> str:
    """The HTML of `report`."""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>ALBEF on the emoji corpus</title><style>{_STYLE}</style></head><body>",
            *_body(report),
            "</body></html>\n",
        ]
    )


def _body(report: Report) -> Iterator[str]:
    yield "<h1>ALBEF on the emoji corpus</h1>"
    yield "<p>A small ALBEF, trained on pictures and their names, is asked for concepts that were held out of the training.</p>"
    yield "<dl>" + "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in report.facts) + "</dl>"
    yield "<h2>Words to pictures</h2>"
    yield _note(report.words_to_pictures.caption("queries") + f" The right picture is outlined. Examples are {report.order}.")
    yield '<div class="grid">' + "".join(map(_words_example, report.words_to_pictures.examples)) + "</div>"
    yield "<h2>Pictures to words</h2>"
    yield _note(report.pictures_to_words.caption("pictures") + " The right name is green.")
    yield '<div class="words">' + "".join(map(_picture_example, report.pictures_to_words.examples)) + "</div>"
    yield "<h2>Recall beside chance</h2>"
    yield _note("Per cent of queries with the right answer among the first 1, 5, 10. Ties count against the model.")
    for split, metrics in sorted(report.metrics.items(), key=lambda item: ("test", "flags", "val").index(item[0])):
        yield _table(split, metrics)
    yield "<h2>Training</h2>"
    yield _note(
        "The dashed lines are what a model reaches that has learned only that two of three matching pairs are wrong. "
        "Matching accuracy above 2/3 says that the multimodal encoder has begun to compare words with pictures. The contrastive "
        "loss rises at first because the queue of further negatives fills up."
    )
    yield _curves(report)
    if report.files:
        yield '<h2>Files of the run</h2><div class="wide"><table class="files">'
        yield "".join(f"<tr><td><code>{escape(p)}</code></td><td>{escape(what)}</td></tr>" for p, what in report.files)
        yield "</table></div>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _emoji(item: Item, *, alt: str, outlined: bool) -> str:
    assert item.picture is not None
    buffer = io.BytesIO()
    item.picture.save(buffer, "PNG", optimize=True)
    name = "emoji right" if outlined else "emoji"
    return f'<img class="{name}" alt="{escape(alt)}" title="{escape(alt)}" src="{_data_url(buffer.getvalue())}">'


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rank(example: Example) -> str:
    return f'<span class="rank">right one: rank {example.rank}</span>'


def _words_example(example: Example) -> str:
    pictures = "".join(_emoji(item, alt=item.text, outlined=item.right) for item in example.answers)
    query = f'<div class="query">{escape(example.query.text)}{_rank(example)}</div>'
    return f'<div class="answers">{query}<div class="pictures">{pictures}</div></div>'


def _picture_example(example: Example) -> str:
    items = "".join(f"<li{' class=right' if item.right else ''}>{escape(item.text)}</li>" for item in example.answers)
    return f"<div>{_emoji(example.query, alt='query', outlined=False)}<div><ol>{items}</ol>{_rank(example)}</div></div>"


def _table(split: str, metrics: dict[str, float]) -> str:
    sizes = f"{metrics['retrieval/num_images']:.0f} pictures, {metrics['retrieval/num_captions']:.0f} names"
    sides = "".join(f'<th colspan="3">{side}</th>' for side in ("picture to words", "words to picture"))
    head = f"<tr><th></th>{sides}</tr><tr><th></th>{'<th>R@1</th><th>R@5</th><th>R@10</th>' * 2}</tr>"
    rows = "".join(
        f"<tr{' class=chance' if name == 'chance' else ''}><td>{escape(name)}</td>"
        + "".join(f"<td>{value:.1f}</td>" for value in values)
        + "</tr>"
        for name, values in table(metrics)
    )
    title = f"<h3>{split}: {sizes} ({escape(SPLITS[split])})</h3>"
    return f'{title}<div class="wide"><table>{head}{rows}</table></div>'


def _curves(report: Report) -> str:
    light, dark = (_data_url(curves_png(report.history, theme)) for theme in (LIGHT, DARK))
    alt = "Losses and matching accuracy over the steps of the run"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="curves" alt="{alt}" src="{light}"></picture>'
    )
