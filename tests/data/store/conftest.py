"""A small corpus for all tests of this folder, in a folder and on the S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import servers
from tests.data.conftest import numbered_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 samples in shards of 5."""
    return numbered_corpus(tmp_path_factory.mktemp("local") / "corpus", 23, 5)


@pytest.fixture(scope="module")
def s3_corpus(s3: servers.Faults, corpus: Path) -> str:
    """The URL of the corpus on the S3 server."""
    return servers.upload(corpus, "s3://bucket/some/corpus")
