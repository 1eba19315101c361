"""Names of the files that a run writes. No other module spells them out.

RUN/
    config.json      the resolved configuration
    metrics.jsonl    losses and evaluations during training, one JSON object per line
    bad_steps.jsonl  steps that were skipped or whose loss jumped
    metrics.json     scores by `albef-ds evaluate`
    failures_*.html  what retrieval got wrong, a page for each split, by `albef-ds evaluate`
    tensorboard/     the numbers of metrics.jsonl as curves, and images
    profile/         traces of train.profile_steps
    trackers/        the id of the run for train.trackers, and the log of each tracker
    logs/            output of the ranks that the demo started
    checkpoints/     step-0000123/ (checkpoint/__init__.py lists its files), best.json and scores.json
"""

from __future__ import annotations

from pathlib import Path

CONFIG_NAME = "config.json"
"""Also the name in every checkpoint and model folder."""
METRICS_NAME, BAD_STEPS_NAME, RESULTS_NAME = "metrics.jsonl", "bad_steps.jsonl", "metrics.json"
CHECKPOINTS_FOLDER, TENSORBOARD_FOLDER, LOGS_FOLDER, PROFILE_FOLDER = "checkpoints", "tensorboard", "logs", "profile"
TRACKERS_FOLDER, FAILURES_NAME = "trackers", "failures"
BEST_NAME, SCORES_NAME = "best.json", "scores.json"
"""Files beside the checkpoints: the best one, and the evaluations it was chosen by."""
MARKER_NAME, STATE_NAME = "complete.json", "state.json"
STEP_PREFIX = "step-"


def tensors_file(part: str) -> str:
    """Returns the file name in a checkpoint of `part`: `student`, a moment of AdamW, `momentum` or `queue`."""
    return f"{part}.safetensors"


STUDENT_NAME, MOMENTUM_NAME, QUEUE_NAME = map(tensors_file, ("student", "momentum", "queue"))


def rank_file(rank: int) -> str:
    """Returns the file name in a checkpoint of one rank's state: its generators and the numbers not yet logged."""
    return tensors_file(f"rank-{rank:05d}")


def step_folder(step: int) -> str:
    """Returns the folder name of a step's checkpoint."""
    return f"{STEP_PREFIX}{step:07d}"


def step_of(name: str) -> int | None:
    """Returns the step in the name of a checkpoint folder, None for any other name, temporary ones included."""
    number = name.removeprefix(STEP_PREFIX)
    return int(number) if name.startswith(STEP_PREFIX) and number.isdecimal() else None


def step_folders(root: Path) -> dict[int, Path]:
    """Returns the checkpoints in `root` as step -> folder, ascending."""
    found = ((step_of(path.name), path) for path in root.glob(f"{STEP_PREFIX}*") if path.is_dir())
    return dict(sorted((step, path) for step, path in found if step is not None))


def complete_steps(root: Path) -> list[int]:
    """Returns the steps of the finished checkpoints in `root`, ascending. A finished checkpoint may still be damaged."""
    return [step for step, folder in step_folders(root).items() if (folder / MARKER_NAME).is_file()]
