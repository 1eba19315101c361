"""What every test runs under: one thread, no network for model hubs, a private place for compiled operators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests import servers

ROOT = Path(__file__).resolve().parent.parent

# Set before torch or DeepSpeed load, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(ROOT / ".cache" / "torch_extensions"))
os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / ".cache" / "triton_cache"))
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
# A launcher's variables around the test run would make single-process tests wait for other ranks.
for _name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of few small scenes with every task's files."""
    from tests.data_tools.scenes.tiny import tiny_scenes

    folder = tmp_path_factory.mktemp("scenes")
    tiny_scenes(folder)
    return folder


@pytest.fixture(scope="session")
def s3_address() -> Iterator[tuple[str, int]]:
    """Host and port of the S3 server of this test run."""
    for package in ("moto", "s3fs"):
        pytest.importorskip(package)
    from tests import servers

    with servers.moto_server() as address:
        yield address


@pytest.fixture(scope="module")
def s3(s3_address: tuple[str, int]) -> Iterator[servers.Faults]:
    """The faults of the S3 server, none at first and after each test. It is empty at the beginning of each file of tests."""
    from tests import servers

    with servers.emptied(s3_address) as faults:
        yield faults


@pytest.fixture(autouse=True)
def _without_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "s3" in request.fixturenames:
        request.getfixturevalue("s3").clear()


WAITING = ("tests/slurm/test_survival.py", "tests/slurm/", "tests/training/test_watchdog.py", "tests/faults/")
"""Tests that mostly wait for daemons and clocks: they begin first, in this order, while the other workers compute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that wait before all others; the order within each part stays."""
    items.sort(key=lambda item: [item.nodeid.startswith(place) for place in WAITING], reverse=True)
