"""The page of arithmetic says what the arithmetic says."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.dataset_build.capacity import DOLMA, MEASURED, Feed, Job, tables

PAGE = Path(__file__).parents[2] / "docs" / "arithmetic.md"


def test_the_tables_of_the_page_are_those_that_are_computed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    between = text.partition("<!-- tables -->\n")[2].partition("\n<!-- end -->")[0]
    assert between == "\n".join(tables()), "python -m pipelines.arithmetic prints them"


def test_twice_the_rate_is_half_the_core_hours_and_the_largest_file_is_the_floor() -> None:
    fast = Job(DOLMA, replace(MEASURED, line_bytes_per_core_second=2 * MEASURED.line_bytes_per_core_second))
    assert fast.core_hours == pytest.approx(Job(DOLMA).core_hours / 2)
    assert Job(DOLMA).hours(8) == pytest.approx(Job(DOLMA).core_hours / 8)
    assert Job(DOLMA).hours(10**6) == Job(DOLMA).hours(10**9) > 0


def test_what_a_rank_reads_does_not_depend_on_how_many_there_are() -> None:
    few, many = Feed(8, 10_000, 4_096), Feed(10_000, 10_000, 4_096)
    assert few.bytes_per_host_second == many.bytes_per_host_second
    assert many.requests_per_second == pytest.approx(10_000 / 8 * few.requests_per_second)
