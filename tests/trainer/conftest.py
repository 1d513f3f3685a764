"""What several tests of the trainer share."""

from pathlib import Path

import pytest

from bamba_data.certificate import Certificate
from tests.loader.real import documents, publish


@pytest.fixture(scope="session")
def dataset(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of short documents, a few of which are held out."""
    sources = {
        "prose": documents(120, 900, heldout=5, prefix="p"),
        "short": documents(80, 300, heldout=3, prefix="s"),
    }
    return publish(tmp_path_factory.mktemp("dataset"), certificate, sources)
