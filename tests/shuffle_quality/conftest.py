"""`pytest tests/shuffle_quality --order FILE.npy` examines an order of yours too."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order",
        metavar="FILE.npy",
        help="an order to examine: one row an epoch, or one epoch; the integers that stand for its rows, each once",
    )
