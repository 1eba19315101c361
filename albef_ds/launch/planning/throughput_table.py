"""Formats a throughput forecast as text and as a dictionary."""

from __future__ import annotations

import json
from typing import Any

from albef_ds.launch.planning.plan import GB, resolve
from albef_ds.launch.planning.throughput import Forecast, efficiency
from albef_ds.launch.planning.throughput_search import ZERO_3_HANDICAP, Option, Recommendation

PAIRS = {"4M": 4e6, "14M": 14e6}
EPOCHS = 30


def render(one: Forecast, rows: list[dict[int, Forecast]], fixed_batch: bool, advice: list[str]) -> str:
    """Returns the parts of one step, the hours, the table of efficiencies, and the lines of `recommended`."""
    config, hardware = one.config, one.hardware
    precision, _ = resolve(config)
    head = (
        f"{config.recipe or 'configuration'} on {one.world_size} rank(s), {precision}, ZeRO stage {config.engine.stage}, "
        f"micro-batch {config.train.micro_batch_size}, global batch {config.train.global_batch_size}"
    )
    text = [head, f"hardware assumed: {hardware.name}", "", *_parts(one), ""]
    text.append(f"{one.images_per_second:,.0f} images/s, {one.utilisation:.1%} of the peak of {hardware.peak / 1e12:.0f} TFLOP/s")
    for name, pairs in PAIRS.items():
        text.append(f"{name} pairs x {EPOCHS} epochs: {one.hours(pairs, EPOCHS):,.1f} hours")
    kept = "global batch" if fixed_batch else "micro-batch"
    text += ["", f"images/s and efficiency against one GPU, the same {kept} everywhere", *_table(rows), *_left_out(rows), ""]
    text += [*advice, ""]
    text.append("a model with assumed speeds, not a measurement; docs/performance.md describes what it includes and leaves out")
    return "\n".join(text)


def _parts(one: Forecast) -> list[str]:
    lines = [("forward and backward", one.compute, f"{one.hardware.rate / 1e12:.0f} TFLOP/s per GPU")]
    for exchange in one.exchanges:
        note = f"{exchange.num_bytes / 1e6:,.1f} MB sent per GPU in {_time(exchange.seconds)}"
        lines.append((f"waiting for {exchange.purpose}", exchange.exposed, note))
    lines.append(("optimizer and momentum", one.updates, ""))
    total = ("step", one.step, "")
    loading = ("loader, in parallel", one.loading, "the step waits for it" if one.loading == one.step else "")
    width = max(len(name) for name, *_ in [*lines, total, loading])
    return [f"  {name:<{width}}  {_time(seconds):>10}  {note}".rstrip() for name, seconds, note in [*lines, total, loading]]


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"


def _table(rows: list[dict[int, Forecast]]) -> list[str]:
    stages = list(rows[0])
    lines = ["  GPUs" + "".join(f"{f'ZeRO-{stage}':>20}" for stage in stages)]
    for row in rows:
        cells = [f"{one.images_per_second:>12,.0f} {efficiency(one, rows[0][stage]):>6.1%}" for stage, one in row.items()]
        lines.append(f"  {next(iter(row.values())).world_size:>4}" + "".join(f"{cell:>20}" for cell in cells))
    return lines


def _left_out(rows: list[dict[int, Forecast]]) -> list[str]:
    missing = [f"ZeRO-{stage}" for stage in (1, 2, 3) if stage not in rows[0]]
    return [f"{' and '.join(missing)} left out: other settings conflict with it"] if missing else []


def recommended(found: Recommendation) -> list[str]:
    """Returns the lines about the fastest setting, the next one, and what separates them."""
    best = found.best
    text = [
        f"recommended for {best.forecast.world_size} GPUs of {found.memory / GB:.4g} GB, global batch "
        f"{best.forecast.config.train.global_batch_size}, the highest predicted rate that fits:",
        *_option(best),
    ]
    if 3 in {option.forecast.config.engine.stage for option in (found.best, found.runner_up, found.too_large) if option}:
        text.append(f"ZeRO-3 is ranked {ZERO_3_HANDICAP:.0%} below its prediction, which leaves out the host time of its hooks")
    for name, other in (("runner-up", found.runner_up), ("faster, but too large", found.too_large)):
        if other is not None:
            text += [f"{name}: {differences(other.forecast, best.forecast)}", *_option(other)]
    return text


def _option(option: Option) -> list[str]:
    one = option.forecast
    rate = f"{one.images_per_second:,.0f} images/s, {option.efficiency:.0%} of a single GPU's rate"
    text = [f"  {' '.join(option.overrides)}", f"  {_time(one.step)} a step, {rate}, {option.num_bytes / GB:.1f} GB"]
    if option.knobs:
        text.append(f"  zero.json: {json.dumps({'zero_optimization': option.knobs})}")
    return text


def differences(one: Forecast, best: Forecast, most: int = 6) -> str:
    """Returns what a step of `one` takes longer and shorter than one of `best`, at `most` so many parts, the largest first."""
    if one.step == one.loading or best.step == best.loading:
        return "the loader sets the pace"
    ours, theirs = _costs(one), _costs(best)
    changes = {name: 1e3 * (ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in ours | theirs}
    largest = sorted((name for name in changes if abs(changes[name]) >= 0.005), key=lambda name: -abs(changes[name]))[:most]
    parts = ", ".join(f"{name} {changes[name]:+.2f}" for name in largest)
    return f"{1e3 * (one.step - best.step):+.2f} ms a step ({parts or 'no difference'})"


def _costs(one: Forecast) -> dict[str, float]:
    waits = {f"waiting for {exchange.purpose}": exchange.exposed for exchange in one.exchanges}
    return {"computation": one.compute, "updates": one.updates, **waits}


def _values(one: Forecast) -> dict[str, Any]:
    return {
        "gpus": one.world_size,
        "stage": one.config.engine.stage,
        "micro_batch_size": one.config.train.micro_batch_size,
        "global_batch_size": one.config.train.global_batch_size,
        "step_seconds": one.step,
        "compute_seconds": one.compute,
        "update_seconds": one.updates,
        "loader_seconds": one.loading,
        "images_per_second": one.images_per_second,
        "utilisation": one.utilisation,
        "hours": {name: one.hours(pairs, EPOCHS) for name, pairs in PAIRS.items()},
        "exchanges": [vars(exchange) for exchange in one.exchanges],
    }


def to_json(one: Forecast, rows: list[dict[int, Forecast]], found: Recommendation | None) -> dict[str, Any]:
    """Returns the same as plain values; times in seconds, bytes per rank and step."""

    def option(name: str) -> dict[str, Any] | None:
        chosen: Option | None = getattr(found, name, None)
        if chosen is None:
            return None
        values = {"overrides": chosen.overrides, "zero_optimization": chosen.knobs, "total_bytes": chosen.num_bytes}
        ours = chosen.forecast
        return {**_values(ours), **values, "efficiency": chosen.efficiency}

    table = [{**_values(cell), "efficiency": efficiency(cell, rows[0][stage])} for row in rows for stage, cell in row.items()]
    options = {name: option(name) for name in ("best", "runner_up", "too_large")}
    return {"hardware": one.hardware.name, **_values(one), "scaling": table, "recommended": options}
