"""Datasets that the loader's tests share, made once a session."""

from pathlib import Path

import pytest

from bamba_data.tokenization.conformance import Certificate
from tests.loader.real import documents, publish
from tests.sharing import made_once


@pytest.fixture(scope="session")
def mixed(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of a few dozen short documents, some of which may be held out. To be read only."""

    def make(folder: Path) -> None:
        sources = {
            "code": documents(40, 300, heldout=3, prefix="c"),
            "prose": documents(60, 900, heldout=5, prefix="p"),
            "short": documents(50, 40, prefix="s"),
        }
        publish(folder, certificate, sources)

    return made_once(tmp_path_factory, "mixed", make) / "dataset"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder of the test's own."""
    return tmp_path / "cache"
