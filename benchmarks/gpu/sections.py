"""The sections of the suite in order of worth, with their time limits on a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One section: a generator of rows that runs in its own process."""

    name: str
    title: str
    call: str
    """`module:function`."""
    seconds: float
    """Time limit; the process and all it started are ended then."""
    needs: tuple[str, ...] = ()
    """Packages without which it is not run."""

    @property
    def group(self) -> str:
        """The part of the name before the dot: right, fast or learns."""
        return self.name.partition(".")[0]


def _section(name: str, title: str, module: str, seconds: float, *needs: str) -> Section:
    return Section(name, title, f"benchmarks.gpu.{module}:{name.partition('.')[2]}", seconds, needs)


SECTIONS = (
    _section("right.device", "the GPU answers, and fp32 is fp32", "right", 30),
    _section("right.losses", "Triton losses forward and backward against fp64", "right", 30, "triton"),
    _section("right.momentum_update", "fused momentum update against its torch form", "right", 20),
    _section("right.golden", "the released code's golden numbers in fp32 and bf16", "right", 30),
    _section("right.forms", "each way to compute against the plain form, ten steps", "right_training", 45),
    _section("right.compiled", "compiled blocks against eager ones, ten steps", "right_training", 90),
    _section("right.zero", "ZeRO 0 to 3 with sharded momentum against the plain engine", "right_training", 60, "deepspeed"),
    _section("right.resume", "a checkpoint resumed bitwise", "right_runs", 45),
    _section("right.overflow", "a step that overflows in fp16 is skipped", "right_training", 30, "deepspeed"),
    _section("right.out_of_memory", "out of memory ends in one line of advice", "right_runs", 30),
    _section("right.views", "views made on the device, and nvJPEG, against the loader's", "right_runs", 30, "torchvision"),
    _section("fast.ceilings", "rates of matrix products and of a copy", "fast", 20),
    _section("fast.steps_eager", "steps in bf16, eager", "fast", 60),
    _section("fast.steps_compiled", "steps in bf16, compiled", "fast", 120),
    _section("fast.steps_plain", "the released algorithm in fp32 and autocast", "fast", 45),
    _section("fast.losses", "the two losses alone", "fast_parts", 30, "triton"),
    _section("fast.updates", "momentum update and AdamW alone", "fast_parts", 30),
    _section("fast.memory", "the largest micro-batch inside 24 GB", "fast_parts", 45),
    _section("fast.loader", "the loader feeding the step", "fast_parts", 45),
    _section("fast.large", "one step of pretrain_large", "fast_parts", 60),
    _section("learns.demo", "the demonstration's recipe", "learns", 90),
    _section("learns.ablation", "the ablation on scenes, three seeds", "learns", 150),
)
