"""The momentum model on a separate stream: the order of waits. Stand-ins replace the streams, which need a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from albef_ds.config.schema import ComputeConfig, ModelConfig, PretrainConfig, RetrievalConfig
from albef_ds.models.momentum import DenseMomentum
from albef_ds.tasks import contrastive, side_stream
from albef_ds.tasks.contrastive import ContrastiveTask
from albef_ds.tasks.retrieval import RetrievalTask
from albef_ds.tasks.side_stream import SideStream
from tests.tasks.tiny import random_batch, tiny_model, tiny_task

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


class Stream:
    """A CUDA stream that records the streams it waits for."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class Result:
    """A tensor that records the streams that use its memory."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def record_stream(self, stream: Stream) -> None:
        self.log.append(f"kept for {stream.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the recorded calls in order."""
    lines: list[str] = []
    current = [Stream("main", lines)]

    @contextlib.contextmanager
    def enter(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", enter)
    monkeypatch.setattr(side_stream, "_stream", lambda device: Stream("side", lines))
    return lines


def test_the_side_waits_for_what_came_before_and_the_main_stream_for_the_side(log: list[str]) -> None:
    side = SideStream(GPU, True)
    assert log == ["side waits for main"]
    with side.work():
        assert torch.cuda.current_stream(GPU).name == "side"  # type: ignore[attr-defined]
        side.follow()  # from inside it is still the main stream that is waited for
    side.join(Result(log), None)  # type: ignore[arg-type]
    assert log[1:] == ["side waits for main", "main waits for side", "kept for main"]


@pytest.mark.parametrize(("device", "on"), [(GPU, False), (CPU, True)])
def test_unasked_or_without_streams_all_stays_in_order(device: torch.device, on: bool, log: list[str]) -> None:
    side = SideStream(device, on)
    with side.work():
        assert torch.cuda.current_stream(GPU).name == "main"  # type: ignore[attr-defined]
    side.join(Result(log))  # type: ignore[arg-type]
    assert log == []


def retrieval(compute: ComputeConfig, model: ModelConfig) -> RetrievalTask:
    task = RetrievalTask(model, compute, RetrievalConfig(queue_size=12))
    task.attach_momentum(DenseMomentum(task.base, 0.9))
    for modules in (task, task.momentum.modules, task.queue):
        modules.to(torch.float64)
    return task


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["pretrain", "align", "retrieval"])
def test_the_student_comes_between_and_nothing_is_gathered_before_the_join(
    kind: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    class Recorded(SideStream):
        def __init__(self, device: torch.device, on: bool) -> None:
            assert on
            lines.append("made")

        def follow(self) -> None:
            lines.append("follow")

        @contextlib.contextmanager
        def work(self) -> Iterator[None]:
            lines.append("work")
            yield

        def join(self, *results: torch.Tensor | None) -> None:
            lines.append(f"join {sum(result is not None for result in results)}")

    compute, model = ComputeConfig(momentum_stream=True), tiny_model(frozen=frozen)
    task: ContrastiveTask = (
        retrieval(compute, model)
        if kind == "retrieval"
        else tiny_task(PretrainConfig(queue_size=12, align_epochs=1.0 if kind == "align" else 0.0), compute, model)
    )
    monkeypatch.setattr(contrastive, "SideStream", Recorded)
    task.model.vision_proj.register_forward_pre_hook(lambda *_: lines.append("student"))
    gather = task.gather_candidates
    monkeypatch.setattr(task, "gather_candidates", lambda *given: lines.append("gather") or gather(*given))
    schedule = {**task.schedule(0.5), "alpha": 0.4}
    task(random_batch(3), **schedule)
    results = 3 if kind == "pretrain" else 2  # the logits of MLM beside both features
    assert lines == ["made", "student", "work", *["follow"] * frozen, f"join {results}", "gather"]
