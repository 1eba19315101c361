"""Builds the HTML page that compares runs: their curves over each other, the settings that differ, their metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from albef_ds.common.errors import ConfigError
from albef_ds.common.html import document, note, table
from albef_ds.common.run_files import CONFIG_NAME
from albef_ds.config.describe import flatten
from albef_ds.config.files import load, to_dict
from albef_ds.training.metric_names import by_worth, is_size
from albef_ds.training.report import charts
from albef_ds.training.report.metrics_log import MetricsLog
from albef_ds.training.report.state import read_log, require_run

MOST = 4
"""Runs on one page, one per colour of the charts."""
_NO_CURVE = {"kind", "step", "time", "epoch", "masked_tokens"}
_LEFT_OUT = {"output"}
"""Settings that differ between any two runs."""


def compare_page(runs: Sequence[Path]) -> str:
    """Returns the page about two to MOST runs, of any tasks, finished or not.

    Raises:
        UserError: fewer or more folders are given or one twice, or one of them holds no run that can be read.
    """
    if not 2 <= len(runs) <= MOST:
        raise ConfigError(f"{len(runs)} runs cannot be compared: give 2 to {MOST}")
    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is given twice: give different ones")
    for run in runs:
        require_run(run)
    names = _names(runs)
    histories = dict(zip(names, map(read_log, runs), strict=True))
    return document(" and ".join(names), _body(names, runs, histories), charts.STYLE)


def _body(names: list[str], runs: Sequence[Path], histories: dict[str, MetricsLog]) -> Iterator[str]:
    yield f"<h1>{escape(' and '.join(names))}</h1>"
    yield "<h2>Training</h2>"
    numbers = {
        name: None
        for history in histories.values()
        for record in history.steps
        for name, value in record.items()
        if isinstance(value, int | float) and name not in _NO_CURVE
    }
    order = by_worth(name for name in numbers if not _is_constant(name, histories))
    drawn = [
        charts.line_chart(name, [charts.Curve(run, *history.series(name)) for run, history in histories.items()])
        for name in order
    ]
    yield '<div class="charts">' + "".join(drawn) + "</div>" if drawn else note("Nothing has been logged yet.")
    yield "<h2>Evaluation</h2>"
    yield from _evaluations(names, histories)
    yield "<h2>Settings that differ</h2>"
    settings = [{key: str(value) for key, value in flatten(to_dict(load(run / CONFIG_NAME))).items()} for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found if key not in _LEFT_OUT)
    rows = [(key, [found.get(key, "-") for found in settings]) for key in keys]
    differing = [(key, values) for key, values in rows if len(set(values)) > 1]
    yield table(names, differing) if differing else note("There is none.")


def _is_constant(name: str, histories: dict[str, MetricsLog]) -> bool:
    """True if all steps of all runs have the same number."""
    values = [value for history in histories.values() for value in history.series(name)[1]]
    return len(values) > len(histories) and len(set(values)) == 1


def _evaluations(names: list[str], histories: dict[str, MetricsLog]) -> Iterator[str]:
    last = [history.evaluations[-1] if history.evaluations else {} for history in histories.values()]
    metrics = dict.fromkeys(
        name for record in last for name, value in record.items() if isinstance(value, int | float) and not is_size(name)
    )
    rows = [
        (name, [f"{record[name]:.4g}" if name in record else "-" for record in last]) for name in metrics if name not in _NO_CURVE
    ]
    if not rows:
        yield note("No run has been evaluated.")
        return
    yield note("The last evaluation of each run, at step " + ", ".join(str(record.get("step", "-")) for record in last) + ".")
    yield table(names, rows)


def _names(runs: Sequence[Path]) -> list[str]:
    """Names of the folders, or paths where two are equal."""
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]
