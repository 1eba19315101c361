"""Building blocks of the HTML pages: each is one self-contained file without scripts, in light and dark colours."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --muted: #656d76; --line: #e4e7eb; --right: #1a7f37;
  --first: #2563c9; --second: #c2410c; --third: #7c3aed; --fourth: #0f766e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e6e8ea; --muted: #9aa2ab; --line: #2c3138; --right: #4fbf67;
    --first: #79a8f5; --second: #fb923c; --third: #b79cf7; --fourth: #5eead4; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 3rem auto;
  padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .25rem; }
p, .note { max-width: 46rem; }
.note, dt, th { color: var(--muted); }
.note { margin: 0 0 1rem; font-size: .92rem; }
dl { display: flex; flex-wrap: wrap; gap: .3rem 1.75rem; margin: 0; font-size: .92rem; }
dl div { display: flex; gap: .4rem; } dt, dd { margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1.5rem; }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; } .wide { overflow-x: auto; } td { white-space: nowrap; }
.files td { text-align: left; } code { font-size: .9em; }
"""


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """Returns a page with `title`, the parts of `body` in order, and `style` after the common style.

    What UTF-8 cannot write, such as bytes of file names in other encodings, becomes a question mark.
    """
    page = "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Returns a row of names and values."""
    return "<dl>" + "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in pairs) + "</dl>"


def note(text: str) -> str:
    """Returns a paragraph of explanation."""
    return f'<p class="note">{escape(text)}</p>'


def text_table(rows: Iterable[tuple[str, str]]) -> str:
    """Returns a table of names and their descriptions."""
    lines = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<div class="wide"><table class="files">{lines}</table></div>'


def table(names: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Returns a table with a column for each of `names`; a row is its name and its values."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{lines}</table></div>'


def data_url(image: bytes, kind: str = "png") -> str:
    """Returns an encoded image, of the `kind` png or jpeg, as a `data:` URL."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
