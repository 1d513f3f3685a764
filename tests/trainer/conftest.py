"""What several tests of the trainer share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bamba_data.tokenization.conformance import Certificate
from tests.loader.real import documents, publish
from trainer.distributed.fsdp import World, joined


@pytest.fixture(scope="session")
def dataset(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of short documents, a few of which are held out."""
    sources = {
        "prose": documents(120, 900, heldout=5, prefix="p"),
        "short": documents(80, 300, heldout=3, prefix="s"),
    }
    return publish(tmp_path_factory.mktemp("dataset"), certificate, sources)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A process alone."""
    with joined() as alone:
        yield alone
