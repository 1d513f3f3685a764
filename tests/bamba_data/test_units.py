"""Counts and durations in units that fit their size, and tables that fit a terminal."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bamba_data.inspect.stats import QUANTILES, SourceStats, length_edges
from bamba_data.inspect.stats_tables import tables
from bamba_data.inspect.units import axis_unit, duration, short, significant


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0"),
        (950.4, "950"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (1234, "1.23k"),
        (9_994, "9.99k"),
        (9_996, "10.0k"),
        (39_845, "39.8k"),
        (99_960, "100k"),
        (999_600, "1.00M"),
        (3_123_456_789_012, "3.12T"),
    ],
)
def test_a_count_in_three_digits(count: float, said: str) -> None:
    assert short(count) == said


@given(st.floats(0, 9.9e14))
def test_a_short_count_is_short_and_near(count: float) -> None:
    said = short(count)
    value = float(said.rstrip("kMBT").replace(",", "")) * {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(said[-1], 1)
    assert len(said) <= 5 and abs(value - count) <= max(0.5, 0.00501 * count)


@pytest.mark.parametrize(
    ("largest", "unit"), [(0, (1, "")), (999, (1, "")), (287_377, (1e3, "thousand ")), (3e12, (1e12, "trillion "))]
)
def test_the_unit_of_an_axis_leaves_numbers_from_one_to_a_thousand(largest: float, unit: tuple[float, str]) -> None:
    assert axis_unit(largest) == unit


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0.00"), (3e-7, "<0.0001"), (0.00442, "0.0044"), (0.1, "0.10"), (1234.567, "1,234.57")]
)
def test_a_small_value_is_never_rounded_to_nothing(value: float, said: str) -> None:
    assert significant(value) == said


@pytest.mark.parametrize(("seconds", "said"), [(23.64, "23.6 s"), (90, "1.5 min"), (5400, "1.5 h")])
def test_a_duration_is_in_seconds_minutes_or_hours(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_tables_of_a_huge_dataset_with_long_names_fit_80_columns_and_cut_no_number() -> None:
    quantiles = {f"{quantile:g}": 10 ** (7 * quantile) for quantile in QUANTILES}
    sizes: Any = (1_234_567_890, 3_123_456_789_012, 0.5, 10**13, 4.2, 1.5, 1, 10**7, 2531.2)
    console = Console(width=80)
    with console.capture() as captured:
        for table in tables([SourceStats("n" * 60 + "-end", *sizes, quantiles)]):
            console.print(table)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    assert {"1,234,567,890", "3,123,456,789,012", "50.00%", "2.53k", "3.16k", "10.0M"} <= set(words)
    assert "…" not in captured.get() and sum(word.strip("n") in ("-end", "end") for word in words) == 2


@given(st.lists(st.lists(st.integers(1, 2**31), min_size=1), max_size=3))
def test_every_length_lies_within_the_edges_and_none_of_these_is_far_from_all(counts: list[list[int]]) -> None:
    edges = length_edges([np.array(of_source) for of_source in counts])
    assert (np.diff(edges) >= 1).all() and edges[0] > 0
    lengths = [length for of_source in counts for length in of_source]
    for length in lengths:
        assert edges[0] < length < edges[-1]
    if lengths:
        assert min(lengths) <= 1.3 * edges[0] + 1 and edges[-1] <= 1.3 * max(lengths) + 1
