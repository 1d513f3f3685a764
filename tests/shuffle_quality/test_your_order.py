"""An order of yours: `pytest tests/shuffle_quality --order FILE.npy`."""

from pathlib import Path

import pytest

from loader.quality.battery import examine
from loader.quality.judge import absurd
from loader.quality.report import read_orders


def test_your_order_passes_for_a_true_shuffle(request: pytest.FixtureRequest) -> None:
    file = request.config.getoption("--order", default=None)
    if file is None:
        pytest.skip("no --order FILE.npy")
    orders = read_orders(Path(file))
    found = {}
    for epoch, order in enumerate(orders):
        following = orders[epoch + 1] if epoch + 1 < len(orders) else None
        found |= {f"epoch {epoch}, {name}": value for name, value in examine(order, following).items()}
    assert {name: found[name] for name in absurd(found)} == {}
