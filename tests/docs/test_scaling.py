"""The tables of docs/scaling.md are those of the throughput model: one row of each is computed again."""

from __future__ import annotations

from albef_ds.config.recipes import get_recipe
from albef_ds.launch.planning.parameter_counts import count
from docs.tools.scaling import MODELS, PAGE, alternative, recommended_row


def test_the_tables_are_current_and_the_recommended_setting_scales() -> None:
    page = PAGE.read_text(encoding="utf-8")
    counts = count(get_recipe(MODELS["base"]))
    assert recommended_row("base", 512, counts) in page, "docs/scaling.md is behind the model: run `python -m docs.tools.scaling`"
    dense, _ = alternative("stage 1, `momentum_storage=dense`", 512, counts)
    sharded, share = alternative("stage 1, momentum group `node`", 512, counts)
    zero3, _ = alternative("stage 3, momentum group `node`", 512, counts)
    assert f"{1e3 * sharded.step:.1f} ({share:.0%})" in page
    assert share > 0.9 and sharded.step < 1.05 * dense.step and zero3.step < 1.5 * sharded.step
    largest, share = alternative("stage 1, momentum group `node`", 1024, counts)
    assert share > 0.8 and largest.step < 1.05 * alternative("stage 1, `momentum_storage=dense`", 1024, counts)[0].step
