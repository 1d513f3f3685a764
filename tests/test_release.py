"""What a release says of itself is the same everywhere, and true of what is installed."""

import datetime
import re
import runpy
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
    assert "version" in project["project"]["dynamic"]
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


# ---- the page of an index, which is far from the files of the repository

SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup_of_a_test")
ADDRESS = "https://forge.example/team/bamba-data"
RELATIVE = re.compile(r"\]\((?!https?://|#|mailto:)([^)]+)\)")


def test_a_readme_on_an_index_has_no_link_that_leads_nowhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files = RELATIVE.findall(text)
    assert files and all((ROOT / file.partition("#")[0]).exists() for file in files)
    linked, bare = SETUP["page_of_the_index"](text, ADDRESS), SETUP["page_of_the_index"](text, None)
    assert not RELATIVE.findall(linked) and not RELATIVE.findall(bare)
    assert f"[glossary]({ADDRESS}/blob/HEAD/docs/glossary.md)" in linked and "glossary" in bare
    assert f"]({ADDRESS}/raw/HEAD/docs/pictures/whole.svg)" in linked and "whole.svg" not in bare
    assert "(https://huggingface.co/blog/bamba)" in linked and "(https://huggingface.co/blog/bamba)" in bare


def test_the_address_of_the_sources_stands_in_the_citation(tmp_path: Path) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert SETUP["repository"]() == citation.get("repository-code")
    assert SETUP["urls"](None) == {}
    assert set(SETUP["urls"](ADDRESS)) == {"Repository", "Documentation", "Changelog"}
    (tmp_path / "CITATION.cff").write_text(f'title: "x"\nrepository-code: "{ADDRESS}/"\n')
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup_of_a_test")
    setup["repository"].__globals__["ROOT"] = tmp_path
    assert setup["repository"]() == ADDRESS


def test_readme_says_how_to_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"pip install '?bamba-data\[([\w,]+)\]", text)
    assert said and {extra for extras in said for extra in extras.split(",")} <= project["optional-dependencies"].keys()
