"""Ranks are started with their numbers and stopped together, and signals reach each of them once. Uses real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from albef_ds.launch.local_ranks import default_ranks, launch, rank_environment, visible_cores

ROOT = Path(__file__).resolve().parents[2]
NAMES = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS DS_ACCELERATOR"


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time, signal; rank = int(os.environ['RANK'])\n{text}"]


def test_every_rank_knows_its_place(tmp_path: Path) -> None:
    write = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(' '.join(os.environ[n] for n in {NAMES!r}.split()))"
    assert launch(script(write), 3, 2, tmp_path / "logs", cpu=True) == 0
    places = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    ports = {place[4] for place in places}
    assert len(ports) == 1
    port = ports.pop()
    assert places == [[str(rank), str(rank), "3", "127.0.0.1", port, "2", "cpu"] for rank in range(3)]


def test_failed_rank_ends_the_others_and_gives_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("albef_ds.launch.local_ranks._GRACE", 0.5)
    hang = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif rank == 1: print('no such thing'); sys.exit(7)\ntime.sleep(600)"
    assert launch(script(hang), 2, 1, tmp_path, cpu=True) == 7
    assert "rank 1 failed:\nno such thing" in capfd.readouterr().err


def test_rank_killed_by_a_signal_gives_a_code_as_shells_do(tmp_path: Path) -> None:
    assert launch(script("os.kill(os.getpid(), signal.SIGKILL)"), 1, 1, tmp_path, cpu=True) == 128 + signal.SIGKILL


def test_only_rank_0_speaks_on_our_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launch(script("print('here is', rank)"), 2, 1, tmp_path, cpu=True)
    assert capfd.readouterr().out == "here is 0\n"
    assert (tmp_path / "rank-1.log").read_text() == "here is 1\n"


def test_ctrl_c_reaches_every_rank_once_and_all_may_finish(tmp_path: Path) -> None:
    listen = (
        f"folder = {str(tmp_path)!r}; seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "open(f'{folder}/.ready-{rank}', 'w').write(str(os.getpgid(0)))\n"
        "os.rename(f'{folder}/.ready-{rank}', f'{folder}/ready-{rank}')\n"
        "while not seen: time.sleep(0.02)\n"
        "time.sleep(0.5); open(f'{folder}/seen-{rank}', 'w').write(str(len(seen))); sys.exit(130)"
    )
    start = f"import sys; from pathlib import Path; from albef_ds.launch.local_ranks import launch\n" \
            f"sys.exit(launch({script(listen)!r}, 2, 1, Path({str(tmp_path / 'logs')!r}), cpu=True))"  # fmt: skip
    # A process group of its own, signalled as a whole: what a terminal does on Ctrl-C.
    starter = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT, process_group=0)
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready-{rank}").exists() for rank in range(2)):
        assert time.monotonic() < deadline and starter.poll() is None
        time.sleep(0.05)
    # Of two signals close together a process may notice one, so the groups are compared too.
    assert str(starter.pid) not in {(tmp_path / f"ready-{rank}").read_text() for rank in range(2)}
    os.killpg(starter.pid, signal.SIGINT)
    assert starter.wait(timeout=60) == 130
    assert [(tmp_path / f"seen-{rank}").read_text() for rank in range(2)] == ["1", "1"]


def test_signal_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    launch(script("pass"), 1, 1, tmp_path, cpu=True)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("workers", "batch", "ranks"), [(1, 128, 1), (2, 128, 2), (3, 128, 2), (6, 96, 6), (64, 128, 8), (4, 6, 3), (8, 2, 1)]
)
def test_ranks_share_the_global_batch_evenly_with_a_negative_each(workers: int, batch: int, ranks: int) -> None:
    assert default_ranks(workers, batch) == ranks


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= visible_cores() <= len(os.sched_getaffinity(0))


def test_users_own_settings_stay_and_gpu_runs_choose_their_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/somewhere")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    environment = rank_environment(0, 1, 1, 5000, cpu=False)
    assert environment["GLOO_SOCKET_IFNAME"] == "eth7" and environment["TORCH_EXTENSIONS_DIR"] == "/somewhere"
    assert "DS_ACCELERATOR" not in environment


def test_the_allocator_is_left_to_the_loader_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert not any(name.startswith("MALLOC_") for name in rank_environment(0, 2, 1, 5000, cpu=True))
