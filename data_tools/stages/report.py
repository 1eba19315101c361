"""Writes the report of a corpus: one HTML file without scripts or external links."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.data.images import read
from data_tools.config import MAX_PIXELS, FilterConfig
from data_tools.content import images
from data_tools.execution.stage_folder import load_stage
from data_tools.files.storage import ByteReader, save_atomically
from data_tools.stages.decisions import DUPLICATE, KEPT, Decisions
from data_tools.stages.model_scores import RowFeatures
from data_tools.stages.scan_results import Columns
from data_tools.stages.write_shards import source_table

_THUMBNAIL = 96  # pixels
_CLUSTERS = 12
_MEMBERS = 8  # with the kept one they fill a line
_STYLE = """
:root{color-scheme:light;--ink:#1d2430;--soft:#667085;--line:#e4e7ec;--kept:#2f7d5b;--gone:#c8553d;--all:#98a2b3}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:1100px;margin:2rem auto;padding:0 1rem;background:#fff}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.4rem 0 .6rem;border-top:1px solid var(--line);padding-top:1.2rem}
p.note{color:var(--soft);margin:.2rem 0 .8rem;max-width:48rem}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.tile{border:1px solid var(--line);border-radius:8px;padding:.6rem 1rem;min-width:8rem}
.tile b{display:block;font-size:1.45rem;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:.85rem}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;color:var(--soft);font-size:.85rem}
td,th{padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{display:inline-block;height:.7rem;border-radius:2px;background:var(--gone);vertical-align:middle}
.bar.kept{background:var(--kept)}
.scroll{overflow-x:auto}.row{display:flex;flex-wrap:wrap;gap:.6rem;margin:.5rem 0 1.1rem}
figure{margin:0;width:104px}figure img{width:96px;height:96px;object-fit:contain;border:1px solid var(--line);border-radius:4px;
background:repeating-conic-gradient(#f4f5f7 0 25%,#fff 0 50%) 0/16px 16px}
figure.kept img{outline:2px solid var(--kept)}
figure .none{width:96px;height:96px;border:1px dashed var(--all);border-radius:4px;display:grid;place-items:center}
figcaption{font-size:.7rem;line-height:1.25;color:var(--soft);overflow:hidden;max-height:3.9em;overflow-wrap:anywhere}
.charts{display:flex;flex-wrap:wrap;gap:1.5rem}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
"""


def write_report(work: Path, path: Path) -> None:
    """Writes the report of a working folder. Raises UserError if a stage up to the plan is not finished."""
    columns = Columns(work)
    decisions = Decisions.load(load_stage(work, "decontaminate").folder)
    gallery = _Gallery(columns)
    body = [
        _head(work, columns, decisions),
        _sources(work),
        _funnel(work),
        _histograms(columns, decisions),
        _clusters(decisions, gallery),
        _contamination(work, gallery),
        _drops(decisions, gallery),
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Corpus report</title><style>{_STYLE}</style>"
    page = f"{head}{''.join(body)}</html>\n"
    save_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))


def _head(work: Path, columns: Columns, decisions: Decisions) -> str:
    plan, dedup = load_stage(work, "plan").summary, load_stage(work, "dedup").summary
    kept_captions = sum(plan["kept_captions"].values())
    tiles = [
        (columns.num_rows, "images listed"),
        (plan["num_samples"], "images kept"),
        (columns.num_captions, "captions listed"),
        (kept_captions, "captions kept"),
        (plan["num_shards"], "shards"),
        (dedup["groups_of_equal_bytes_with_other_captions"], "equal images, other captions"),
        (dedup["flat_pictures"], "flat images (bytes and pixels only)"),
    ]
    cells = "".join(f"<div class=tile><b>{value:,}</b><span>{html.escape(name)}</span></div>" for value, name in tiles)
    bounded = dedup.get("near_duplicates_unexamined", 0)
    note = f"<p class=note>{bounded:,} images are in clusters too large to compare fully and were kept.</p>" if bounded else ""
    return f"<h1>Corpus report</h1><div class=tiles>{cells}</div>{note}"


def _table(head: list[str], rows: Iterable[list[str | int | None]]) -> str:
    def cell(value: str | int | None, tag: str) -> str:
        if isinstance(value, int):
            return f"<{tag} class=n>{value:,}</{tag}>"
        return f"<{tag}>{'' if value is None else value}</{tag}>"

    cells = list(rows)
    lines = ["".join(cell(value, "td") for value in row) for row in cells]
    numeric = [any(isinstance(row[place], int) for row in cells) for place in range(len(head))]
    heads = "".join(
        f"<th{' class=n' if is_number else ''}>{html.escape(name)}</th>" for name, is_number in zip(head, numeric, strict=True)
    )
    return f"<div class=scroll><table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


_SOURCE_FIGURES = {
    "listed": "listed",
    "present": "present",
    "broken": "broken",
    "kept": "kept",
    "kept_captions": "captions kept",
    "paper_pictures": "paper: images",
    "paper_captions": "paper: captions",
}


def _sources(work: Path) -> str:
    rows: list[list[str | int | None]] = []
    for name, entry in source_table(work).items():
        problems = ", ".join(f"{html.escape(reason)} {count:,}" for reason, count in entry["problems"].items())
        rows.append([html.escape(name), *(entry[key] for key in _SOURCE_FIGURES), problems])
    head = ["source", *_SOURCE_FIGURES.values(), "reader's notes"]
    filled = [column for column in range(len(head)) if any(row[column] not in (None, "") for row in rows)]
    return f"<h2>Sources</h2>{_table([head[column] for column in filled], [[row[column] for column in filled] for row in rows])}"


def _funnel(work: Path) -> str:
    plan = load_stage(work, "plan").summary
    parts = ["<h2>Dropped images per source and reason</h2>"]
    for source, reasons in plan["funnel"].items():
        total = sum(reasons.values()) + plan["kept"][source]
        rows: list[list[str | int | None]] = [["listed", total, _bar(total, total, "kept")]]
        left = total
        for reason, count in reasons.items():
            if count:
                left -= count
                rows.append([html.escape(reason), -count, f"{_bar(left, total, 'kept')}{_bar(count, total, '')}"])
        rows.append(["<b>kept</b>", left, _bar(left, total, "kept")])
        parts.append(f"<h3>{html.escape(source)}</h3>{_table(['reason', 'images', ''], rows)}")
    captions = [[html.escape(r), c["captions"]] for r, c in plan["counts"].items() if c["captions"]]
    if captions:
        parts.append(f"<h3>Captions dropped by caption rules</h3>{_table(['reason', 'captions'], captions)}")
    return "".join(parts)


def _bar(count: int, total: int, kind: str) -> str:
    return f"<span class='bar {kind}' style='width:{600 * count / max(total, 1):.1f}px'></span>"


def _histograms(columns: Columns, decisions: Decisions) -> str:
    width, height = columns.image("width"), columns.image("height")
    side, long = np.minimum(width, height), np.maximum(width, height)
    read = side > 0
    kept = (decisions.image == KEPT) & read
    owners = decisions.owners(columns.caption_rows())
    words = columns.caption("num_words")
    caption_kept = (decisions.caption == KEPT) & (owners >= 0)
    charts = [
        *_score_charts(columns, caption_kept),
        _chart("shorter side, pixels", side, read, kept, [0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048]),
        _chart(
            "aspect ratio (longer over shorter)", long / np.maximum(side, 1), read, kept, [1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 5]
        ),
        _chart("words in a caption", words, np.ones(len(words), np.bool_), caption_kept, [0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 100]),
    ]
    legend = "<p class=note>Grey: all readable images and their captions. Green: kept.</p>"
    return f"<h2>Sizes and captions</h2>{legend}<div class=charts>{''.join(charts)}</div>"


def _score_charts(columns: Columns, kept: NDArray[np.bool_]) -> list[str]:
    """Charts of the scores of a model, if the filter used them."""
    config = FilterConfig(**load_stage(columns.catalog.stage.folder.parent, "filter").summary["config"])
    if not config.uses_model:
        return []
    scores = RowFeatures(columns, config.features).scores()
    rows = [
        ("ITM probability of image and caption", scores.itm, [number / 10 for number in range(10)]),
        ("ITC similarity of image and caption", scores.itc, [-1, *(number / 10 for number in range(-2, 10))]),
    ]
    return [_chart(title, values, np.isfinite(values), kept & np.isfinite(values), edges) for title, values, edges in rows]


def _chart(title: str, values: NDArray[Any], everything: NDArray[np.bool_], kept: NDArray[np.bool_], edges: list[float]) -> str:
    limits = [*edges, np.inf]
    before, after = (np.histogram(values[mask], limits)[0] for mask in (everything, kept))
    top, step = max(int(before.max(initial=0)), 1), 340 / len(edges)
    bars = []
    for number, (a, b) in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
        x = number * step
        for count, colour in ((a, "#d0d5dd"), (b, "#2f7d5b")):
            size = 120 * count / top
            bars.append(f"<rect x={x:.1f} y={130 - size:.1f} width={step - 2:.1f} height={size:.1f} fill={colour}>")
            bars.append(f"<title>{count:,}</title></rect>")
        bars.append(f"<text x={x:.1f} y=144>{_short(edges[number])}</text>")
    svg = f"<svg width=350 height=150 role=img aria-label='{html.escape(title)}'>{''.join(bars)}</svg>"
    return f"<figure style='width:350px'>{svg}<figcaption>{html.escape(title)}, highest bar {top:,}</figcaption></figure>"


def _short(edge: float) -> str:
    return f"{edge / 1024:g}k" if edge >= 1024 else f"{edge:g}"


@dataclass
class _Gallery:
    """Thumbnails with captions, read again from the sources; a missing image shows as a dashed field."""

    columns: Columns

    def figure(self, row: int, note: str = "", *, kept: bool = False) -> str:
        _, record = self.columns.catalog.record(row)
        image = "<div class=none>no image</div>"
        try:
            content = ByteReader().read(record.path, record.offset, record.size) if not record.missing else b""
            data = base64.b64encode(_thumbnail(content)).decode()
            image = f"<img alt='' src='data:image/jpeg;base64,{data}'>"
        except (OSError, read.UnusableImageError):
            pass
        text = html.escape("; ".join(record.captions)[:110])
        label = f"<b>{html.escape(note)}</b> " if note else ""
        head = f"<figure{' class=kept' if kept else ''} title='{html.escape(record.id)}'>"
        return f"{head}{image}<figcaption>{label}{text}</figcaption></figure>"


def _thumbnail(content: bytes) -> bytes:
    image = read.decode_image(content, MAX_PIXELS)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return images.encode(image, "jpg", 80)[0]


def _clusters(decisions: Decisions, gallery: _Gallery) -> str:
    note = "<p class=note>The outlined image is kept; bits are the distance to it.</p>"
    parts = [f"<h2>Largest clusters of duplicates</h2>{note}"]
    for number, reason in enumerate(decisions.reasons, start=1):
        if not reason.startswith(DUPLICATE):
            continue
        rows = np.flatnonzero(decisions.image == number)
        leaders, counts = np.unique(decisions.kept[rows], return_counts=True)
        parts.append(f"<h3>{html.escape(reason)}: {len(rows):,} dropped for {len(leaders):,} kept</h3>")
        for place in np.argsort(-counts, kind="stable")[:_CLUSTERS]:
            members = rows[decisions.kept[rows] == leaders[place]]
            figures = [gallery.figure(int(leaders[place]), "kept", kept=True)]
            for row in members[:_MEMBERS].tolist():
                bits = int(decisions.detail[row])
                figures.append(gallery.figure(row, f"{bits} bits" if bits > 0 else ""))
            more = f"<p class=note>and {len(members) - _MEMBERS:,} more</p>" if len(members) > _MEMBERS else ""
            parts.append(f"<div class=row>{''.join(figures)}</div>{more}")
    return "".join(parts)


def _contamination(work: Path, gallery: _Gallery) -> str:
    sets = load_stage(work, "decontaminate").summary["sets"]
    if not sets:
        return "<h2>Contamination</h2><p class=note>No evaluation set was given.</p>"
    ways = ["same bytes", "same pixels", "looks the same", "listed id"]
    rows: list[list[str | int | None]] = [
        [html.escape(name), entry["pictures"], entry["set_pictures_found"], *(entry["ways"].get(way, 0) for way in ways)]
        for name, entry in sets.items()
    ]
    parts = [_table(["evaluation set", "its images", "of them found", *ways], rows)]
    for name, entry in sets.items():
        figures = [gallery.figure(e["row"], f"{e['how']}, {e['bits']} bits, as {e['id']}") for e in entry["examples"]]
        if figures:
            parts.append(f"<h3>Dropped because of {html.escape(name)}</h3><div class=row>{''.join(figures)}</div>")
    return f"<h2>Contamination</h2>{''.join(parts)}"


def _drops(decisions: Decisions, gallery: _Gallery) -> str:
    parts = ["<h2>Examples of dropped images per reason</h2>"]
    for number, reason in enumerate(decisions.reasons, start=1):
        dropped = np.flatnonzero(decisions.image == number)
        if len(dropped):
            rows = np.sort(np.random.default_rng(number).choice(dropped, min(_MEMBERS, len(dropped)), replace=False))
            figures = "".join(gallery.figure(row) for row in rows.tolist())
            parts.append(f"<h3>{html.escape(reason)} ({len(dropped):,})</h3><div class=row>{figures}</div>")
    return "".join(parts)
