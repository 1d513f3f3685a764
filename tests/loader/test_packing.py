"""Best-fit rows over any history are those of the oracle; every token is in exactly one row; no document is cut that
fits into one."""

import random

import pytest

from loader.order import Order
from loader.plan import MixPlan
from tests.loader.packing_oracle import PackingOracle
from tests.loader.test_order import gone, random_plan, served, source


def best_fit(plan: MixPlan, dice: random.Random) -> MixPlan:
    """The same plan, packed."""
    header = plan.header.model_copy(update={"packing": "best-fit", "group_rows": dice.choice([1, 3, 20])})
    return plan.model_copy(update={"header": header})


def check_history(seed: int, rows: int = 120) -> None:
    """One generated chain of stops, world sizes and plans: every row that is served equals the oracle's."""
    dice = random.Random(seed)
    sources = {
        name: source(
            dice, name, dice.randint(1, 14), dice.randint(1, 5), dice.choice([1, 9, 60]), dice.choice([0, 0, 3])
        )
        for name in "abc"[: dice.randint(1, 3)]
    }
    sources |= {"late": source(dice, "late", 3, 3, 20)}
    plan = best_fit(random_plan(dice, sources), dice)
    order = Order(plan, sources)
    oracle = PackingOracle(plan, sources, rows + 60, gone(order))
    row = 0
    while row < rows:
        world_size = dice.choice([1, 1, 2, 3, 4, 5, 7, 8, 13, 64])
        for batch in plan.batches(row):
            if batch.first_row + batch.rows > rows:
                row = rows
                break
            found = served(order, batch, world_size)
            assert sorted(found) == list(range(batch.first_row, batch.first_row + batch.rows))
            for g, made in found.items():
                wanted = oracle.row(g)
                assert made == wanted._replace(tokens=[]), f"seed {seed}, row {g}, world {world_size}"
            row = batch.first_row + batch.rows
            if dice.random() < 0.3:
                break  # stop here, go on with another world


@pytest.mark.parametrize("seed", range(60))
def test_a_generated_history_serves_the_packed_rows_of_the_oracle(seed: int) -> None:
    check_history(seed)


@pytest.mark.long
def test_ten_thousand_generated_histories_serve_the_packed_rows_of_the_oracle() -> None:
    for seed in range(1000, 11_000):
        check_history(seed, rows=60)
