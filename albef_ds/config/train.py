"""Settings of a run's course: length, batch size, logging, checkpoints and time limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from albef_ds.common.urls import has_credentials, is_object_store
from albef_ds.config.fields import not_negative, positive, require, setting, step_range

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Values of `train.trackers`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch size, logging, checkpoints and time limits of a run."""

    micro_batch_size: int = setting(64, "samples per rank and forward pass", unit="samples", paper="64")
    global_batch_size: int = setting(512, "samples per optimizer step over all ranks", unit="samples", paper="512")
    epochs: float = setting(30.0, "passes over the data; with max_minutes, whichever ends first", unit="epochs", paper="30")
    max_steps: int = setting(0, "stop after this many optimizer steps; 0: no limit", unit="steps")
    max_minutes: float = setting(
        0.0, "wall-clock budget: schedules are planned for it, training stops at it; 0: none", unit="minutes"
    )
    seed: int = setting(42, "seed of weights, order, masks and negatives", paper="42 (released code)")
    log_every: int = setting(50, "steps between log lines", unit="steps", paper="50 (released code)")
    eval_every: int = setting(0, "steps between retrieval evaluations; 0: only at the end", unit="steps")
    eval_samples: int = setting(1000, "samples of data.eval_shards used during training", unit="samples")
    eval_pictures: int = setting(
        8, "validation samples that TensorBoard shows at each evaluation: texts, retrieval, Grad-CAM; 0: none", unit="samples"
    )
    save_every: int = setting(0, "steps between checkpoints; 0: only at the end", unit="steps")
    save_in_background: bool = setting(True, "write a checkpoint while training continues, from a copy in CPU memory")
    keep_last: int = setting(3, "newest checkpoints to keep; 0: all", unit="checkpoints")
    keep_every: int = setting(0, "also keep checkpoints whose step is a multiple of this; 0: off", unit="steps")
    keep_best: str = setting(
        "", "also keep the best checkpoint by this metric of the evaluations; -NAME: lower is better; empty: off"
    )
    checkpoint_store: str = setting("", "URL, such as s3://bucket/run, to which finished checkpoints are copied; empty: nowhere")
    bad_steps: int = setting(5, "steps in a row with non-finite losses or gradients that trigger on_bad_steps", unit="steps")
    on_bad_steps: Literal["stop", "rollback"] = setting(
        "stop", "reaction to bad_steps: stop, or go back to the checkpoint before them and skip their samples"
    )
    max_rollbacks: int = setting(3, "rollbacks before the run stops")
    spike: float = setting(10.0, "report a loss this many deviations above the last 100 steps' median; 0: never")
    start_limit: float = setting(30.0, "time for all ranks to start; 0: none", unit="minutes")
    step_limit: float = setting(30.0, "time for one step, data included; 0: none", unit="minutes")
    save_limit: float = setting(60.0, "time for one checkpoint; 0: none", unit="minutes")
    silence_limit: float = setting(120.0, "time without a heartbeat after which a rank counts as dead; 0: never", unit="seconds")
    dry_run_batch: bool = setting(True, "run one full-size mock batch before step 1 to detect out-of-memory early")
    progress: bool = setting(True, "draw a progress bar when standard error is a terminal")
    trackers: str = setting(
        "tensorboard",
        "where numbers and images go beside metrics.jsonl: some of tensorboard,wandb,mlflow,trackio; empty: nowhere",
    )
    profile_steps: str = setting("", "A:B: write a trace of steps A to B, and on a GPU its memory, to profile/; empty: off")
    gc_every: int = setting(
        50, "steps between Python's garbage collections, on all ranks together; 0: Python chooses", unit="steps"
    )
    peak_tflops: float = setting(
        0.0, "a device's peak, for model FLOPs utilisation; 0: the manufacturer's bf16 if known", unit="TFLOP/s"
    )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """First and last step of `profile_steps`; None: no profile."""
        return step_range("train.profile_steps", self.profile_steps) if self.profile_steps else None

    @property
    def tracker_names(self) -> list[str]:
        """The parts of `trackers`, each once."""
        return list(dict.fromkeys(name for part in self.trackers.split(",") if (name := part.strip())))

    def __post_init__(self) -> None:
        unknown = [name for name in self.tracker_names if name not in TRACKERS]
        require(not unknown, "train.trackers", f"has no tracker {', '.join(unknown)}", f"give some of {', '.join(TRACKERS)}")
        positive("train", self, "micro_batch_size", "global_batch_size", "log_every")
        not_negative("train", self, "epochs", "max_steps", "max_minutes", "seed", "eval_every", "eval_samples", "save_every")
        not_negative("train", self, "eval_pictures", "keep_last", "keep_every", "max_rollbacks", "spike")
        not_negative("train", self, "start_limit", "step_limit", "save_limit", "silence_limit")
        not_negative("train", self, "gc_every", "peak_tflops")
        positive("train", self, "bad_steps")
        require(
            not has_credentials(self.checkpoint_store),
            "train.checkpoint_store",
            "has a user, a password or a query, and settings are stored with a run",
            "put credentials into the environment",
        )
        require(
            not self.checkpoint_store or is_object_store(self.checkpoint_store),
            "train.checkpoint_store",
            f"is {self.checkpoint_store}, which cannot be written to as an object store",
            "give s3://BUCKET/FOLDER, gs:// or az://",
        )
        require(
            self.profiled is None or not self.max_steps or self.profiled[0] <= self.max_steps,
            "train.profile_steps",
            f"{self.profile_steps} begins after train.max_steps {self.max_steps}",
            "give earlier steps",
        )
        require(
            not self.keep_best or bool(self.eval_every and self.save_every and self.save_every % self.eval_every == 0),
            "train.keep_best",
            f"{self.keep_best} needs an evaluation at every checkpoint",
            "set train.eval_every, and train.save_every to a multiple of it",
        )
        require(
            self.epochs > 0 or self.max_steps > 0, "train.epochs", f"is {self.epochs}", "give epochs or train.max_steps above 0"
        )
        require(
            self.global_batch_size % self.micro_batch_size == 0,
            "train.global_batch_size",
            f"{self.global_batch_size} is not a multiple of train.micro_batch_size {self.micro_batch_size}",
            "it must be micro_batch_size x ranks x accumulation steps",
        )
