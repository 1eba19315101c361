"""Examples are drawn at random, the page is self-contained, and its images can be decoded."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from albef_ds.cli.demo.page import build_page
from albef_ds.cli.demo.plots import DARK, ITM_BASE_LOSS, curves_png, overview_png
from albef_ds.cli.demo.results import DemoReport, Example, Item, Panel, best_ranking, draw, table
from albef_ds.training.report.metrics_log import MetricsLog

METRICS = {
    f"retrieval/{direction}_r{k}{suffix}": float(number)
    for number, (suffix, direction, k) in enumerate(
        (suffix, direction, k)
        for suffix in ("", "_itm", "_itm_itc", "_chance")
        for direction in ("i2t", "t2i")
        for k in (1, 5, 10)
    )
} | {"retrieval/num_images": 300.0, "retrieval/num_captions": 300.0}


def image_item(colour: str) -> Item:
    return Item(f"<b>{colour}</b> & more", Image.new("RGB", (72, 72), colour), colour == "green")


def report(history: MetricsLog | None = None) -> DemoReport:
    asked = Example(Item('say "cat" <script>', None), tuple(image_item(c) for c in ("red", "blue", "green", "gold", "gray")), 3)
    shown = Example(image_item("pink"), tuple(Item(f"word {n}", None, n == 0) for n in range(5)), 1)
    steps = [{"step": s, "loss_itc": 9.0 / s, "loss_itm": 0.7, "itm_accuracy": 0.6, "loss_mlm": 3.0} for s in (1, 2, 3)]
    return DemoReport(
        facts=(("trained", "6 min"),),
        metrics={"val": METRICS, "test": METRICS, "flags": METRICS},
        ranking="itm_itc",
        text_to_image=Panel((asked,) * 5, 40, 3, 300),
        image_to_text=Panel((shown,) * 6, 50, 3, 300),
        history=history or MetricsLog(steps),
        files=(("runs/demo/demo.png", "an image"),),
    )


class Sources(HTMLParser):
    """Collects the addresses that a page would load, and checks that its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_loads_nothing_from_outside_and_runs_no_script() -> None:
    page = build_page(report())
    sources = Sources()
    sources.feed(page)
    assert not sources.open, "unclosed tags"
    assert len(sources.loaded) == 5 * 5 + 6 + 2 and all(url.startswith("data:image/png;base64,") for url in sources.loaded)
    assert "<script" not in page and "url(" not in page and "@import" not in page


def test_texts_are_escaped() -> None:
    page = build_page(report())
    assert "say &quot;cat&quot; &lt;script&gt;" in page and "&lt;b&gt;red&lt;/b&gt; &amp; more" in page


def test_right_answers_are_marked_and_the_draw_is_said() -> None:
    page = build_page(report())
    assert page.count('class="emoji right"') == 5 and page.count("<li class=right>") == 6
    assert "3 of the 40 queries with the right answer among the first 5, 2 of the 260 others" in page
    assert "by ITM and ITC" in page and "prefers-color-scheme: dark" in page


def test_table_puts_every_ranking_beside_chance() -> None:
    rows = table(METRICS)
    assert [name for name, _ in rows] == ["similarity (ITC)", "re-ranked by ITM", "re-ranked by ITM and ITC", "chance"]
    assert rows[0][1] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] and rows[3][1] == [18.0, 19.0, 20.0, 21.0, 22.0, 23.0]
    without = {name: value for name, value in METRICS.items() if "_itm" not in name}
    assert [name for name, _ in table(without)] == ["similarity (ITC)", "chance"]


def test_draw_is_seeded_and_mixes_hits_with_misses() -> None:
    ranks = [0, 9, 3, 50, 5, 4, 7, 1]
    chosen, hits, shown_hits = draw(ranks, 4, seed=1)
    assert (chosen, hits, shown_hits) == draw(ranks, 4, seed=1)
    assert hits == 4 and shown_hits == 2 and len(set(chosen)) == 4
    assert [ranks[query] < 5 for query in chosen] == [True, True, False, False]
    assert {tuple(draw(ranks, 4, seed)[0]) for seed in range(20)} != {tuple(chosen)}


@pytest.mark.parametrize(("ranks", "hits"), [([9] * 8, 0), ([0] * 8, 4), ([0] + [9] * 7, 1), ([9] + [0] * 7, 3), ([0], 1)])
def test_draw_takes_what_there_is(ranks: list[int], hits: int) -> None:
    chosen, _, shown_hits = draw(ranks, 4, seed=0)
    assert len(chosen) == min(4, len(ranks)) and shown_hits == hits


def test_ranking_shown_is_the_one_of_best_mean_recall() -> None:
    metrics = {"retrieval/mean_recall": 10.0, "retrieval/mean_recall_itm": 8.0, "retrieval/mean_recall_itm_itc": 12.0}
    assert best_ranking(metrics, ("itc", "itm", "itm_itc")) == "itm_itc"
    assert best_ranking(metrics, ("itc",)) == "itc"


def test_overview_and_curves_are_pngs_of_a_readable_size() -> None:
    for content, width in ((overview_png(report()), 1500), (curves_png(report().history, DARK), 1300)):
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG" and image.width >= width
            colours = image.convert("RGB").getcolors(1 << 24)
            assert colours is not None and len(colours) > 50, "an empty sheet"


def test_run_too_short_for_a_curve_still_gets_a_page() -> None:
    empty = report(MetricsLog([]))
    assert re.search("<h2>Training</h2>", build_page(empty)) and overview_png(empty)


def test_base_rate_of_matching_is_the_entropy_of_one_third() -> None:
    assert pytest.approx(0.6365, abs=1e-4) == ITM_BASE_LOSS
