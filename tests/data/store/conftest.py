"""One S3 server and one web server for all tests of this folder; each test gets its corpus under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.data.conftest import numbered_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 samples in shards of 5."""
    return numbered_corpus(tmp_path_factory.mktemp("local") / "corpus", 23, 5)


@pytest.fixture(scope="module")
def s3() -> Iterator[servers.Faults]:
    """The S3 server's faults, none at first."""
    for package in ("moto", "s3fs"):
        pytest.importorskip(package)
    with servers.s3_server() as faults:
        yield faults


@pytest.fixture(scope="module")
def s3_corpus(s3: servers.Faults, corpus: Path) -> str:
    """The URL of the corpus on the S3 server."""
    return servers.upload(corpus, "s3://bucket/some/corpus")


@pytest.fixture(autouse=True)
def _without_faults(request: Any) -> Iterator[None]:
    yield
    if "s3" in request.fixturenames:
        request.getfixturevalue("s3").clear()
