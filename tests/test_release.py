"""What a release says of itself is the same everywhere, and true of what is installed."""

import datetime
import re
import tomllib
from pathlib import Path

import yaml

import bamba_data

ROOT = Path(__file__).parents[1]
PACKAGES = ("bamba", "bamba_data", "loader", "trainer", "pipelines")


def test_the_version_is_the_newest_release_of_the_changelog_and_of_the_citation() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", changelog, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version, date = releases[0]
    assert bamba_data.__version__ == version == citation["version"]
    assert datetime.date.fromisoformat(date) == citation["date-released"]


def test_the_package_has_the_version_of_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bamba_data.__version__"}


def test_every_package_says_that_it_is_typed() -> None:
    in_a_wheel = [f"bamba/_top_level/{name}" for name in ("loader", "trainer", "pipelines")]
    assert [name for name in (*PACKAGES, *in_a_wheel) if not (ROOT / name / "py.typed").is_file()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "Typing :: Typed" in project["classifiers"]


def test_a_line_of_the_changelog_stands_in_one_place() -> None:
    """Two merges once left the entries of a release under *Unreleased* as well."""
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    assert sorted(set(lines)) == sorted(lines)
