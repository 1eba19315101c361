"""The plain engine: the state that an optimizer step changes; a skipped step changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from albef_ds.config.schema import OptimConfig, PretrainConfig
from albef_ds.engine.interface import MOMENTS, STUDENT, mean_scalars
from albef_ds.engine.local import LocalEngine
from albef_ds.tasks.pretrain import PretrainTask
from tests.tasks.tiny import losses_and_gradients, random_batch, tiny_model, tiny_task

CPU = torch.device("cpu")
SCHEDULE = {"alpha": 0.4}


def _engine(task: PretrainTask | None = None, **optim: Any) -> LocalEngine:
    return LocalEngine(task or tiny_task(), OptimConfig(**optim), CPU)


def _snapshot(engine: LocalEngine) -> dict[str, Any]:
    """Returns all state that a step may change, by name."""
    task = engine.task
    assert isinstance(task, PretrainTask)
    state: dict[str, Any] = {f"student.{name}": value.clone() for name, value in task.state_dict().items()}
    state |= {f"momentum.{name}": value for name, value in task.momentum.full_state_dict().items()}
    queue = task.queue
    state |= {f"queue.{name}": buffer.clone() for name, buffer in queue.named_buffers()}
    state |= {"queue.pointer": torch.tensor([queue.pointer, queue.filled])}
    moments = engine.optimizer.state_dict()["state"]
    state |= {f"optimizer.{n}.{k}": torch.as_tensor(v).clone() for n, s in moments.items() for k, v in s.items()}
    return state


def _moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Returns the first parts of the names of changed entries."""
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_a_step_moves_student_momentum_queue_and_optimizer_by_the_given_rate() -> None:
    engine = _engine(weight_decay=0.0)
    engine.train_step([random_batch(4)], SCHEDULE, learning_rate=1e-3)
    before = _snapshot(engine)
    momentum = engine.task.momentum.full_state_dict()
    result = engine.train_step([random_batch(4, start=4)], SCHEDULE, learning_rate=1e-3)
    after = _snapshot(engine)
    assert _moved(before, after) == {"student", "momentum", "queue", "optimizer"} and not result.skipped
    for name, value in engine.task.momentum.full_state_dict().items():
        student = after[f"student.base.{name}"]
        torch.testing.assert_close(value, 0.995 * momentum[name] + 0.005 * student, rtol=1e-13, atol=1e-15)
    steps = [(after[name] - before[name]).abs().max() for name in before if name.startswith("student.")]
    assert 0 < max(steps) < 3e-3
    assert set(result.losses) == {"itc", "mlm", "itm"} and result.grad_norm > 0
    assert result.metrics["temperature"] == pytest.approx(float(before["student.temperature"]))


def _poison(engine: LocalEngine, value: float) -> Any:
    return engine.task.temperature.register_hook(lambda grad: grad * value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_with_a_non_finite_gradient_moves_nothing(value: float, clip_norm: float) -> None:
    engine, other = _engine(clip_norm=clip_norm), _engine(clip_norm=clip_norm)
    for one in (engine, other):
        one.train_step([random_batch(4)], SCHEDULE, learning_rate=1e-3)
    before = _snapshot(engine)
    hook = _poison(engine, value)
    result = engine.train_step([random_batch(4, start=4)], SCHEDULE, learning_rate=1e-3)
    hook.remove()
    assert result.skipped and not result.grad_norm < float("inf")
    assert _moved(before, _snapshot(engine)) == set()
    # Nor does anything of it linger: the next step is the one that an engine which never saw it takes.
    for one in (engine, other):
        one.train_step([random_batch(4, start=8)], SCHEDULE, learning_rate=1e-3)
    assert _moved(_snapshot(other), _snapshot(engine)) == set()


@pytest.mark.parametrize(("rate", "bound"), [(1.0, 0.001), (-1.0, 0.5)])
def test_temperature_is_clamped_after_the_step(rate: float, bound: float) -> None:
    engine = _engine(weight_decay=0.0)
    # AdamW's first step is `learning rate` in the direction of the gradient's sign, whatever its size.
    engine.task.temperature.register_hook(lambda grad: torch.full_like(grad, rate))
    engine.train_step([random_batch(4)], SCHEDULE, learning_rate=1.0)
    assert float(engine.task.temperature.detach()) == pytest.approx(bound)


def test_accumulation_averages_the_micro_batches() -> None:
    batches = [random_batch(4, start=start) for start in (0, 4)]
    parts = [losses_and_gradients(tiny_task(), batch) for batch in batches]
    engine = _engine()
    seen: dict[str, Tensor] = {}
    engine.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in engine.task.named_parameters() if p.grad is not None})
    )
    result = engine.train_step(batches, SCHEDULE, learning_rate=1e-3)
    assert result.losses == pytest.approx({name: (parts[0][0][name] + parts[1][0][name]) / 2 for name in parts[0][0]})
    for name, gradient in seen.items():
        torch.testing.assert_close(gradient, (parts[0][1][name] + parts[1][1][name]) / 2)
    assert engine.task.queue.filled == 8


def test_clipping_bounds_the_gradient_but_reports_its_norm() -> None:
    norms: list[float] = []
    for clip_norm in (0.0, 0.1):
        engine = _engine(clip_norm=clip_norm)
        engine.optimizer.register_step_pre_hook(
            lambda *_, engine=engine: norms.append(
                float(torch.nn.utils.get_total_norm([p.grad for p in engine.task.parameters() if p.grad is not None]))
            )
        )
        norms.append(engine.train_step([random_batch(4)], SCHEDULE, learning_rate=1e-3).grad_norm)
    assert norms[0] == pytest.approx(norms[1]) == pytest.approx(norms[3]) and norms[0] > 0.1
    assert norms[2] == pytest.approx(0.1, rel=1e-4)


def test_a_dry_run_leaves_no_trace() -> None:
    engine, other = _engine(), _engine()
    for one in (engine, other):
        one.train_step([random_batch(4)], SCHEDULE, learning_rate=1e-3)
    before = _snapshot(engine)
    engine.dry_run(random_batch(4, start=4), SCHEDULE)
    assert _moved(before, _snapshot(engine)) == set()
    for one in (engine, other):
        one.train_step([random_batch(4, start=8)], SCHEDULE, learning_rate=1e-3)
    assert _moved(_snapshot(other), _snapshot(engine)) == set()


def test_goes_on_exactly_from_the_tensors_of_another_engine() -> None:
    engine, other = _engine(), _engine()
    engine.train_step([random_batch(4)], SCHEDULE, learning_rate=1e-3)
    for part in (STUDENT, *MOMENTS):
        other.load_tensors(part, dict(engine.tensors(part)))
    other.load_counters(engine.counters())
    other.task.momentum.load_full_state_dict(engine.task.momentum.full_state_dict())
    other.task.queue.load_state_dict(engine.task.queue.state_dict())
    for one in (engine, other):
        one.train_step([random_batch(4, start=4)], SCHEDULE, learning_rate=1e-3)
    assert _moved(_snapshot(engine), _snapshot(other)) == set()


def test_training_lowers_the_losses() -> None:
    engine = LocalEngine(tiny_task(PretrainConfig(queue_size=0, alpha=0.0)), OptimConfig(), CPU)
    batch = random_batch(4)
    results = [engine.train_step([batch], {"alpha": 0.0}, learning_rate=3e-3) for _ in range(25)]
    assert sum(results[-1].losses.values()) < 0.6 * sum(results[0].losses.values())


def test_autocast_stays_near_single_precision_and_keeps_single_precision_weights() -> None:
    results = {}
    for autocast in (False, True):
        task = tiny_task(model=tiny_model(), dtype=torch.float32)
        engine = LocalEngine(task, OptimConfig(), CPU, autocast=autocast)
        results[autocast] = engine.train_step([random_batch(4, dtype=torch.float32)], SCHEDULE, learning_rate=1e-3)
        assert {p.dtype for p in task.parameters()} == {torch.float32}
        assert task.queue.images.dtype == torch.float32
    # bf16 activations carry 8 bits.
    assert results[True].losses == pytest.approx(results[False].losses, rel=0.03)
    assert results[True].losses != results[False].losses


def test_mean_of_scalars() -> None:
    parts = [{"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"a": torch.tensor(3.0), "b": torch.tensor(6.0)}]
    assert mean_scalars(parts) == {"a": 2.0, "b": 4.0} and mean_scalars([]) == {} and mean_scalars([{}]) == {}
