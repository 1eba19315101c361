"""Draws the demonstration's training curves and its overview as PNG bytes. Computes no metrics."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from albef_ds.cli.demo.results import DemoReport, Item, Panel, table
from albef_ds.common.errors import MachineError
from albef_ds.training.report.metrics_log import MetricsLog

ITM_BASE_ACCURACY = 2 / 3
"""Accuracy of a model that always answers no: two of three ITM pairs are negatives."""
ITM_BASE_LOSS = float(np.log(3) - 2 / 3 * np.log(2))
"""Cross-entropy of the same base rate."""


@dataclass(frozen=True)
class Theme:
    """Colours of the light or dark appearance."""

    paper: str
    ink: str
    muted: str
    grid: str
    line: str
    right: str


LIGHT = Theme(paper="#ffffff", ink="#1f2328", muted="#656d76", grid="#e4e7eb", line="#2563c9", right="#1a7f37")
DARK = Theme(paper="#16191d", ink="#e6e8ea", muted="#9aa2ab", grid="#2c3138", line="#79a8f5", right="#4fbf67")

CURVES = (
    ("loss_itc", "contrastive loss (ITC)", None, ""),
    ("loss_mlm", "masked-word loss (MLM)", None, ""),
    ("loss_itm", "matching loss (ITM)", ITM_BASE_LOSS, "always “no”"),
    ("itm_accuracy", "matching accuracy (ITM)", ITM_BASE_ACCURACY, "always “no”: 2/3"),
)
"""Key in metrics.jsonl, title, base rate, its label."""


def check_matplotlib() -> None:
    """Raises `MachineError` if matplotlib is missing. Called before the training."""
    try:
        import matplotlib  # noqa: F401 (start-up time)
    except ImportError:
        raise MachineError("the demo draws with matplotlib, which is not installed: run `pip install matplotlib`") from None


def curves_png(history: MetricsLog, theme: Theme = LIGHT) -> bytes:
    """Losses and ITM accuracy over the steps, four panels in a row."""
    figure = _figure(13.0, 2.7, theme)
    _draw_curves(figure, history, theme)
    return _png(figure, theme)


def overview_png(report: DemoReport) -> bytes:
    """Examples, recall beside chance, and curves in one image."""
    theme, rows = LIGHT, -(-len(report.text_to_image.examples) // 2)
    heights = [0.85, 0.45 + 0.85 * rows, 3.4, 3.1, 2.7]
    figure = _figure(14.0, sum(heights), theme)
    head, words, images, recall, curves = figure.subfigures(5, 1, height_ratios=heights)
    facts = "  ·  ".join(f"{name} {value}" for name, value in report.facts)
    head.text(0.03, 0.62, "ALBEF on the emoji corpus", fontsize=20, fontweight="bold", color=theme.ink, va="center")
    head.text(0.03, 0.18, facts, fontsize=10.5, color=theme.muted, va="center")
    _draw_text_to_image(words, report.text_to_image, theme)
    _draw_image_to_text(images, report.image_to_text, theme)
    _draw_recall(recall, report, theme)
    _draw_curves(curves, report.history, theme)
    return _png(figure, theme)


def _figure(width: float, height: float, theme: Theme) -> Any:
    from matplotlib.figure import Figure  # optional package

    return Figure(figsize=(width, height), facecolor=theme.paper)


def _png(figure: Any, theme: Theme) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor=theme.paper)
    return buffer.getvalue()


def _heading(area: Any, title: str, note: str, theme: Theme, *, top: float) -> None:
    area.text(0.03, top, title, fontsize=13, fontweight="bold", color=theme.ink, va="top")
    area.text(0.97, top, note, fontsize=9, color=theme.muted, va="top", ha="right")


def _bare(axes: Any) -> Any:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _show_image(axes: Any, item: Item, colour: str | None) -> None:
    _bare(axes)
    assert item.image is not None
    axes.imshow(item.image)
    if colour is not None:
        axes.spines[:].set(visible=True, color=colour, linewidth=3.0)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _draw_text_to_image(area: Any, panel: Panel, theme: Theme) -> None:
    _heading(area, "text to image", panel.caption("queries"), theme, top=0.98)
    rows = -(-len(panel.examples) // 2)
    grid = area.add_gridspec(rows, 13, left=0.03, right=0.97, top=0.985 - 0.4 / (0.45 + 0.85 * rows), bottom=0.01,
                             width_ratios=[2.6, 1, 1, 1, 1, 1, 0.15, 2.6, 1, 1, 1, 1, 1], wspace=0.08, hspace=0.14)  # fmt: skip
    for number, example in enumerate(panel.examples):
        row, column = number % rows, 7 * (number // rows)
        label = _bare(area.add_subplot(grid[row, column]))
        label.text(0.94, 0.58, _shorten(example.query.text, 26), ha="right", va="center", fontsize=10.5, color=theme.ink)
        label.text(0.94, 0.26, example.rank_text, ha="right", va="center", fontsize=8.5, color=theme.muted)
        for place, item in enumerate(example.answers):
            axes = area.add_subplot(grid[row, column + 1 + place])
            _show_image(axes, item, theme.right if item.right else None)


def _draw_image_to_text(area: Any, panel: Panel, theme: Theme) -> None:
    _heading(area, "image to text", panel.caption("images"), theme, top=0.95)
    columns = 4
    rows = -(-len(panel.examples) // columns)
    grid = area.add_gridspec(max(rows, 1), 2 * columns, left=0.03, right=0.97, top=0.83, bottom=0.02,
                             width_ratios=[1.0, 2.6] * columns, wspace=0.12, hspace=0.2)  # fmt: skip
    for number, example in enumerate(panel.examples):
        row, column = number // columns, 2 * (number % columns)
        _show_image(area.add_subplot(grid[row, column], anchor="NE"), example.query, None)
        axes = _bare(area.add_subplot(grid[row, column + 1]))
        for place, item in enumerate(example.answers):
            style = {"color": theme.right, "fontweight": "bold"} if item.right else {"color": theme.ink}
            axes.text(0.0, 1.0 - 0.155 * place, _shorten(item.text, 28), fontsize=9.5, va="top", **style)
        axes.text(0.0, 1.0 - 0.155 * len(example.answers) - 0.02, example.rank_text, fontsize=8.5, va="top", color=theme.muted)


def _draw_recall(area: Any, report: DemoReport, theme: Theme) -> None:
    metrics = report.metrics["test"]
    size = f"{metrics['retrieval/num_images']:.0f} held-out concepts; ties count against the model; recall in per cent"
    order = report.order.partition(",")[0]
    _heading(area, "recall beside chance", f"{size}; examples above {order}", theme, top=0.97)
    rows, places = table(metrics), np.arange(3.0)
    shades = [theme.line, "#7aa5e8", "#b5cdf2"]
    for side, title in enumerate(("image to text", "text to image")):
        axes = area.add_axes((0.05 + 0.48 * side, 0.12, 0.44, 0.64))
        highest = max(max(values) for _, values in rows)
        for number, (name, values) in enumerate(rows):
            shown = values[3 * side : 3 * side + 3]
            colour = theme.muted if name == "chance" else shades[number % len(shades)]
            bars = axes.bar(places + 0.2 * (number - (len(rows) - 1) / 2), shown, 0.18, label=name, color=colour)
            axes.bar_label(bars, fmt="%.1f", fontsize=8, color=theme.ink, padding=1)
        _style(axes, title, theme)
        axes.set_ylim(0, 1.2 * highest)
        axes.set_xticks(places, ["R@1", "R@5", "R@10"])
        axes.grid(axis="x", visible=False)
        if side == 0:
            axes.legend(fontsize=8.5, frameon=False, loc="upper left", labelcolor=theme.ink)


def _draw_curves(area: Any, history: MetricsLog, theme: Theme) -> None:
    for number, (key, title, base, base_label) in enumerate(CURVES):
        axes = area.add_axes((0.05 + 0.24 * number, 0.2, 0.195, 0.6))
        steps, values = history.series(key)
        axes.plot(steps, values, color=theme.line, linewidth=1.6, marker="o" if len(steps) < 3 else "")
        _style(axes, title, theme)
        axes.set_xlabel("step", fontsize=8.5, color=theme.muted, labelpad=2)
        if base is not None:
            axes.axhline(base, color=theme.muted, linewidth=1.0, linestyle=(0, (4, 3)))
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, base - 0.15 * (high - low)), max(high, base + 0.02))
            place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -3), "textcoords": "offset points"}
            axes.annotate(base_label, (0.98, base), ha="right", va="top", fontsize=8, color=theme.muted, **place)


def _style(axes: Any, title: str, theme: Theme) -> None:
    axes.set_title(title, fontsize=10.5, color=theme.ink, loc="left")
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.tick_params(labelsize=8.5, colors=theme.muted, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
