"""What the faults' tests share with the loader's."""

from pathlib import Path

import pytest

from bamba_data.tokenization.conformance import Certificate
from tests.loader.real import documents, publish
from tests.sharing import made_once


@pytest.fixture(scope="session")
def mixed_data(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of short documents. To be read only."""

    def make(folder: Path) -> None:
        publish(folder, certificate, {"prose": documents(80, 700), "short": documents(60, 60, prefix="s")})

    return made_once(tmp_path_factory, "mixed-data", make) / "dataset"
