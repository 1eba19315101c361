"""Evaluates the last checkpoint of a demonstration on the held-out splits and writes page, image and metrics."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.formats.read import fill_task, read_model
from albef_ds.cli.demo.page import build_page
from albef_ds.cli.demo.plots import overview_png
from albef_ds.cli.demo.results import PREFIX, SPLITS, DemoReport, best_ranking, make_panels, score_split, table
from albef_ds.common.atomic_files import write_output
from albef_ds.common.errors import WeightsError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, CONFIG_NAME, METRICS_NAME, STATE_NAME, TENSORBOARD_FOLDER
from albef_ds.config.files import read_json_object
from albef_ds.engine.build import build_task
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.training.report.metrics_log import MetricsLog

K_TEST = 32
"""Candidates re-ranked per query."""
EXAMPLES_SHOWN = 12, 8
"""Queries on the page: text to image, image to text."""
PAGE_NAME, OVERVIEW_NAME, FIGURES_NAME = "demo.html", "demo.png", "demo_metrics.json"


def show_run(output: Path) -> str:
    """Evaluates and shows the run in `output`, trained on the emoji corpus; returns the final lines to print.

    Raises:
        WeightsError: `output` has no checkpoint, or one of another model or corpus.
    """
    folder = find_checkpoint(output, "auto")
    if folder is None:
        raise WeightsError(f"{output} has no checkpoint: give the folder of a run that has saved one")
    model, state = read_model(folder).model, read_json_object(folder / STATE_NAME)
    config = model.config
    device = torch.device("cuda" if torch.cuda.is_available() and config.engine.device != "cpu" else "cpu")
    task = build_task(config)
    assert isinstance(task, PretrainTask)
    fill_task(task, model)
    task.to(device)
    corpus = Path(config.data.shards).parent
    metrics, scores = {}, {}
    for split in SPLITS:
        print(f"evaluating {split} ...", flush=True)
        scores[split] = score_split(task, config, corpus / split, device, K_TEST)
        metrics[split] = dict(scores[split].metrics(PREFIX))
    ranking = best_ranking(metrics["val"], scores["val"].rankings)
    text_to_image, image_to_text = make_panels(corpus / "test", config, scores["test"], ranking, EXAMPLES_SHOWN)
    history = MetricsLog.read(output / METRICS_NAME)
    facts = (
        ("trained", f"{state['seconds'] / 60:.1f} min on {state['world_size']} {device.type.upper()} ranks"),
        ("steps", f"{state['step']:,}"),
        ("pairs seen", f"{state['samples']:,}"),
        ("pairs/s", f"{state['samples'] / max(state['seconds'], 1e-9):.0f}"),
        ("parameters", f"{sum(p.numel() for p in task.parameters()) / 1e6:.1f} M"),
    )
    files = (
        (str(output / OVERVIEW_NAME), "this page as an image"),
        (str(output / FIGURES_NAME), "all figures on it"),
        (str(output / METRICS_NAME), "the log of the training, one JSON object per line"),
        (str(output / TENSORBOARD_FOLDER), "the same for `tensorboard --logdir`"),
        (str(output / CONFIG_NAME), "all settings, for `albef-ds train --config`"),
        (str(output / CHECKPOINTS_FOLDER), "weights, optimizer and stream position"),
    )
    report = DemoReport(facts, metrics, ranking, text_to_image, image_to_text, history, files)
    document = {"metrics": metrics, "ranking": ranking, "k_test": K_TEST, "training": state}
    write_output(output / FIGURES_NAME, json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_output(output / OVERVIEW_NAME, overview_png(report))
    write_output(output / PAGE_NAME, build_page(report))
    return _closing(output, metrics)


def _closing(output: Path, metrics: dict[str, dict[str, float]]) -> str:
    lines = []
    for split in ("test", "flags"):
        size = f"{metrics[split]['retrieval/num_images']:.0f}"
        lines += ["", f"{split}: {size} images; recall@1/5/10 in per cent, ties count against the model"]
        lines.append(f"  {'':<25}  {'image to text':>18}  {'text to image':>18}")
        for name, values in table(metrics[split]):
            shown = [" ".join(f"{value:5.1f}" for value in part) for part in (values[:3], values[3:])]
            lines.append(f"  {name:<25}  {shown[0]:>18}  {shown[1]:>18}")
    lines += [
        "",
        f"page      {output / PAGE_NAME}",
        f"image     {output / OVERVIEW_NAME}",
        f"metrics   {output / FIGURES_NAME}",
        f"curves    tensorboard --logdir {output}",
        "continue  albef-ds demo --minutes 30     (longer learns more)",
        "          albef-ds recipes               (the paper's runs and larger ones)",
    ]
    return "\n".join(lines)
