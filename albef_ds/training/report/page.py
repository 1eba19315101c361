"""Builds the HTML page about a run: state, curves, evaluations with their images, data, configuration, files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from albef_ds.common.errors import UserError
from albef_ds.common.html import data_url, document, facts, note, text_table
from albef_ds.common.run_files import (
    CHECKPOINTS_FOLDER,
    CONFIG_NAME,
    FAILURES_NAME,
    METRICS_NAME,
    RESULTS_NAME,
    TENSORBOARD_FOLDER,
    complete_steps,
)
from albef_ds.config.describe import differences
from albef_ds.config.files import load, read_json_object, to_dict
from albef_ds.config.schema import RunConfig
from albef_ds.data.store.open import load_manifest
from albef_ds.training.metric_names import by_worth
from albef_ds.training.report import charts
from albef_ds.training.report.board_images import last_images
from albef_ds.training.report.metrics_log import MetricsLog
from albef_ds.training.report.scores import score_tables
from albef_ds.training.report.state import read_log, require_run, state_of

PAGE_NAME = "report.html"
_STYLE = """
figure { margin: 0 0 1.5rem; } figure img { max-width: 100%; image-rendering: auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--muted); font-size: .92rem; } details { margin: 1rem 0; } pre { overflow-x: auto; font-size: .85rem; }
"""
_NO_CURVE = {"kind", "step", "time", "epoch", "masked_tokens"}
_TITLES = {
    "loss": "loss",
    "loss_itc": "contrastive loss (ITC)",
    "loss_mlm": "masked-word loss (MLM)",
    "loss_itm": "matching loss (ITM)",
    "itc_accuracy": "contrastive accuracy (ITC)",
    "itm_accuracy": "matching accuracy (ITM)",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "images_per_second": "images per second",
    "tokens_per_second": "tokens per second",
    "data_wait_share": "share of the time that waits for data",
}


def build_page(run: Path) -> str:
    """Returns the HTML page about the run in `run`, of any task, finished or not.

    Raises:
        UserError: there is no run, or its configuration or log cannot be read.
    """
    require_run(run)
    config = load(run / CONFIG_NAME)
    title = f"{run.absolute().name}: {config.recipe or config.task.kind}"
    return document(title, _body(run, config, read_log(run)), charts.STYLE + _STYLE)


def _body(run: Path, config: RunConfig, history: MetricsLog) -> Iterator[str]:
    state = state_of(run)
    yield f"<h1>{escape(run.absolute().name)}</h1>"
    total = f" of {state.total_steps:,}" if state.total_steps else ""
    shown = [
        ("state", state.state),
        ("recipe", config.recipe or "none"),
        ("task", config.task.kind),
        ("step", f"{state.step:,}{total}"),
        ("global batch", f"{config.train.global_batch_size}"),
        ("engine", f"ZeRO stage {config.engine.stage}" if config.engine.kind == "zero" else "local"),
    ]
    if state.metric and state.value is not None:
        shown.append((state.metric, f"{state.value:.2f}"))
    yield facts([*shown, ("last log line", state.last_written.replace("T", " ") or "none")])
    yield "<h2>Training</h2>"
    yield from _curves(history)
    yield "<h2>Evaluation</h2>"
    yield from _evaluations(run, history, state.metric)
    yield "<h2>Data</h2>"
    yield text_table(_data(config))
    yield "<h2>Configuration</h2>"
    changed = differences(config)
    yield note("Settings that differ from the defaults; `albef-ds train` with config.json of the run starts the same run.")
    yield text_table(changed)
    everything = escape(json.dumps(to_dict(config), indent=2, ensure_ascii=False))
    yield f"<details><summary>every setting</summary><pre>{everything}</pre></details>"
    yield "<h2>Files</h2>"
    yield text_table(_files(run))


def _curves(history: MetricsLog) -> Iterator[str]:
    names = {name for record in history.steps for name, value in record.items() if isinstance(value, (int, float))}
    curves = {name: charts.Curve(name, *history.series(name)) for name in by_worth(names - _NO_CURVE)}
    constant = {name: curve.values[0] for name, curve in curves.items() if len(curve.values) > 1 and len(set(curve.values)) == 1}
    drawn = [charts.line_chart(_TITLES.get(name, name), [curve]) for name, curve in curves.items() if name not in constant]
    if not curves:
        yield note("Nothing has been logged yet.")
        return
    yield '<div class="charts">' + "".join(drawn) + "</div>"
    if constant:
        yield note("The same in every step: " + ", ".join(f"{name} {value:.4g}" for name, value in constant.items()) + ".")
    if len(history.steps) > charts.MOST_POINTS:
        yield note(f"Of {len(history.steps):,} log lines each chart shows about {charts.MOST_POINTS}, evenly apart.")


def _evaluations(run: Path, history: MetricsLog, main: str | None) -> Iterator[str]:
    records = history.evaluations
    names = [name for name, value in (records[-1] if records else {}).items() if isinstance(value, (int, float))]
    names = [name for name in names if name not in _NO_CURVE]
    if records:
        moving = [name for name in names if len(records) > 1 and len(set(history.scores(name)[1])) > 1]
        moving.sort(key=lambda name: name != main)
        groups: dict[str, list[str]] = {}
        for name in moving:
            groups.setdefault(_without_k(name), []).append(name)
        if groups:
            drawn = (_score_chart(title, group, history) for title, group in groups.items())
            yield '<div class="charts">' + "".join(drawn) + "</div>"
        yield f"<h3>At step {records[-1]['step']:,}</h3>"
        yield score_tables({name: records[-1][name] for name in names}, main)
    scores = _scores(run)
    for split, values in scores.items():
        yield f"<h3>{escape(split)}</h3>" + score_tables(values, main, ".2f")
    for page in sorted(run.glob(f"{FAILURES_NAME}_*.html")):
        yield f'<p><a href="{quote(page.name)}">What retrieval got wrong on {escape(page.stem.partition("_")[2])}</a></p>'
    images = last_images(run / TENSORBOARD_FOLDER)
    for image in images:
        caption = escape(f"{image.tag.rpartition('/')[2].replace('_', ' ')}, at step {image.step:,}")
        yield f'<figure><img alt="{caption}" src="{data_url(image.png)}"><figcaption>{caption}</figcaption></figure>'
    if not (records or scores or images):
        yield note("The run has not been evaluated: set data.eval_shards or data.eval_annotations, and train.eval_every.")


def _score_chart(title: str, names: list[str], history: MetricsLog) -> str:
    labels = [name.rpartition("/")[2].removeprefix("i2t_").removeprefix("t2i_") for name in names]
    curves = [charts.Curve(label, *history.scores(name)) for label, name in zip(labels, names, strict=True)]
    return charts.line_chart(title, curves)


def _without_k(name: str) -> str:
    """Turns `retrieval/i2t_r5_itm` into `retrieval/i2t_itm`, so that recall at 1, 5 and 10 share a chart."""
    return "_".join(part for part in name.split("_") if part not in ("r1", "r5", "r10"))


def _scores(run: Path) -> dict[str, dict[str, float]]:
    """Returns split of metrics.json -> metric -> value, empty if the run was not scored."""
    try:
        record: dict[str, Any] = read_json_object(run / RESULTS_NAME)
    except UserError:
        return {}
    name = record.get("checkpoint", "")
    return {f"{split}, {name} ({record.get('weights', '')})": values for split, values in record.get("splits", {}).items()}


def _data(config: RunConfig) -> list[tuple[str, str]]:
    """Returns each data setting that is set, with the size of the corpus if its manifest can be read from here."""
    data = config.data
    names = ["shards", "mixture", "eval_shards", "annotations", "eval_annotations", "test_annotations"]
    names += ["image_root", "answer_list", "refs"]
    rows = []
    for name in names:
        value = str(getattr(data, name))
        if value:
            rows.append((f"data.{name}", value + (_corpus(value) if name in ("shards", "eval_shards") else "")))
    return rows or [("data", "no setting")]


def _corpus(shards: str) -> str:
    try:
        manifest = load_manifest(shards, attempts=2)
    except UserError:
        return " (no readable manifest)"
    source = manifest.info.get("source") or manifest.info.get("sources")
    named = f", from {source if isinstance(source, str) else json.dumps(source)[:200]}" if source else ""
    return f" ({manifest.num_samples:,} samples in {len(manifest.shards):,} shards{named})"


def _files(run: Path) -> list[tuple[str, str]]:
    rows = [
        (str(run / CONFIG_NAME), "all settings"),
        (str(run / METRICS_NAME), "the log, one JSON object per line"),
        (str(run / TENSORBOARD_FOLDER), "the same and the images, for `tensorboard --logdir`"),
    ]
    steps = complete_steps(run / CHECKPOINTS_FOLDER)
    if steps:
        listed = ", ".join(f"{step:,}" for step in steps[-8:])
        rows.append((str(run / CHECKPOINTS_FOLDER), f"{len(steps)} checkpoints, the newest of steps {listed}"))
    return [row for row in rows if Path(row[0]).exists()]
