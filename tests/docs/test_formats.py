"""The page of formats says all that our files hold, and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.hooks import formats

ROOT = Path(__file__).parents[2]


@pytest.fixture
def entries() -> list[dict[str, Any]]:
    return list(yaml.safe_load(formats.FIELDS.read_text(encoding="utf-8")))


def test_every_field_of_every_file_is_described_and_no_other(entries: list[dict[str, Any]]) -> None:
    assert list(formats.faults_of(entries)) == []


def test_a_field_that_nobody_described_is_named(entries: list[dict[str, Any]]) -> None:
    account = next(entry for entry in entries if entry.get("record") == "Account")
    del account["fields"]["kept"]
    account["fields"]["guessed"] = "of no field"
    faults = sorted(formats.faults_of(entries))
    assert faults == ["Account.guessed is gone from the code", "Account.kept is not described"]


def test_every_format_that_the_page_names_is_one_that_the_code_writes_or_reads(entries: list[dict[str, Any]]) -> None:
    packages = ("bamba_data", "loader", "trainer", "pipelines")
    code = "".join(file.read_text(encoding="utf-8") for package in packages for file in (ROOT / package).rglob("*.py"))
    named = set(re.findall(r"`(bamba-[a-z-]+/\d)`", formats.FIELDS.read_text(encoding="utf-8")))
    assert len(named) > 15
    assert {name for name in named if f'"{name}"' not in code} == set()


def test_the_page_has_a_section_for_every_record_and_a_row_for_every_field(entries: list[dict[str, Any]]) -> None:
    page = formats.page()
    for entry in entries:
        if "record" in entry:
            section = page.partition(f"### {entry['title']}\n")[2].partition("\n### ")[0]
            assert all(f"| `{field}` |" in section for field in entry["fields"]), entry["title"]
