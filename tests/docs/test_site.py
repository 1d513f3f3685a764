"""The documentation site: it builds without a warning, and its pages speak of what is there."""

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bamba_data.format.dataset import open_dataset
from docs.hooks import commands, rooms
from docs.hooks.excerpts import excerpt
from pipelines.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def test_the_site_builds_and_no_link_or_reference_in_it_is_broken(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr[-2000:]
    assert "WARNING" not in built.stderr
    for page in ("index.html", "formats/index.html", "cli/index.html", "api/loader/index.html"):
        assert (tmp_path / page).is_file()


def test_links_to_elsewhere_are_https_and_whole() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\((http[^)\s]*)\)", page.read_text("utf-8"))]
    assert links
    wrong = [
        (page.name, link) for page, link in links if not re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]{2,}(/\S*)?", link)
    ]
    assert wrong == []


def test_links_of_the_pages_at_the_root_lead_somewhere() -> None:
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!http|#)([^)#\s]+)", page.read_text("utf-8")):
            assert (ROOT / link).exists(), f"{page.name}: {link}"


def test_an_excerpt_is_the_code_of_today() -> None:
    source = (ROOT / "docs" / "hooks" / "excerpts.py").read_text(encoding="utf-8")
    shown = excerpt("docs/hooks/excerpts.py", "excerpt")
    body = shown.removeprefix('```python title="docs/hooks/excerpts.py"\n').removesuffix("\n```")
    assert body.startswith("def excerpt(") and body in source


@pytest.mark.parametrize(("path", "symbol"), [("docs/hooks/gone.py", None), ("docs/hooks/excerpts.py", "Gone.away")])
def test_an_excerpt_of_what_is_gone_is_an_error_that_names_it(path: str, symbol: str | None) -> None:
    with pytest.raises(LookupError, match=symbol or path):
        excerpt(path, symbol)


def test_every_path_of_our_own_that_a_page_names_is_there() -> None:
    """`loader/order/mixture.py`, `tests/trainer`, `k8s/base`: in code spans. Log and changelog speak of their day."""
    tops = "bamba_data|benchmarks|docs|examples|k8s|loader|pipelines|tests|trainer"
    gone = []
    for page in PAGES:
        if page.name in ("log.md", "CHANGELOG.md"):
            continue
        for span in re.findall(r"`([^`\n]+)`", page.read_text("utf-8")):
            if re.fullmatch(rf"(?:{tops})/[\w./-]*", span) and not (ROOT / span).exists():
                gone.append(f"{page.name}: {span}")
    assert gone == []


def test_the_digests_that_readme_and_quickstart_print_are_those_of_the_demo(demo: Path) -> None:
    dataset = open_dataset(str(demo))
    written_by = {"pyarrow": "26.0.1", "tokenizers": "0.23.3", "gigatoken": "0.10.0"}
    if any(metadata.version(name) != version for name, version in written_by.items()):
        pytest.skip(f"the digest is of {written_by}")
    for page in ("README.md", "docs/quickstart.md"):
        printed = re.findall(r"^(dataset|identity) ([0-9a-f]{64})$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
        assert printed == [("dataset", dataset.manifest.digest), ("identity", dataset.manifest.identity)], page


def test_every_file_of_the_packages_opens_with_its_promise_and_has_its_line_on_the_map() -> None:
    page = rooms.page()
    for package in rooms.PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            line = f"{file.parent.relative_to(ROOT)}/" if file.name == "__init__.py" else f"| `{file.name}` | "
            assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), f"{file} has no docstring"
            assert line in page, file


def test_every_file_and_module_that_a_page_names_is_one_of_the_tree() -> None:
    """`ssd_dx.py` in a code span, `python -m trainer.evaluate` anywhere. Log and changelog speak of their day."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = {name.rpartition("/")[2] for name in listed}
    gone = []
    for page in (page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")):
        text = page.read_text("utf-8")
        gone += [f"{page.name}: {name}" for name in re.findall(r"`(\w+\.py)`", text) if name not in files]
        for module in re.findall(r"python -m ((?:trainer|loader|pipelines|benchmarks)[\w.]*)", text):
            path = module.rstrip(".").replace(".", "/")
            if not {f"{path}.py", f"{path}/__main__.py"} & set(listed):
                gone.append(f"{page.name}: {module}")
    assert gone == []


def test_every_command_of_the_program_has_its_section_and_every_option_its_row() -> None:
    page = commands.page()

    def check(command: Any, path: str) -> None:
        section = page.partition(f" `{path}`\n")[2].partition("\n#")[0]
        assert path == "bamba-data" or section, path
        for option in command.params:
            if option.param_type_name == "option" and not option.hidden and path != "bamba-data":
                assert f"`{option.opts[0]}`" in section, f"{path} {option.opts[0]}"
        for name, inner in getattr(command, "commands", {}).items():
            if not inner.hidden:
                check(inner, f"{path} {name}")

    check(typer.main.get_command(app), "bamba-data")


def test_every_command_that_a_page_shows_is_one_of_the_program_with_options_that_it_has() -> None:
    wrong, seen = [], 0
    for page in (page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")):
        text = page.read_text("utf-8").replace("\\\n", " ")
        lines = re.findall(r"^(?:\$ |    )(bamba-data .*)$", text, re.MULTILINE) + re.findall(
            r"`(bamba-data [^`\n]+)`", text
        )
        for line in lines:
            words = line.partition(" #")[0].split()[1:]
            command = typer.main.get_command(app)
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
            if getattr(command, "commands", None) and words and not words[0].isupper() and words[0][0] not in "-…":
                wrong.append(f"{page.name}: {line}: no command {words[0]}")
            options = {name for option in command.params for name in [*option.opts, *option.secondary_opts]} | {
                "--help"
            }
            asked = {word.partition("=")[0] for word in words if word.startswith("-")}
            wrong += [f"{page.name}: {line}: no option {name}" for name in sorted(asked - options)]
            if page.name in ("README.md", "quickstart.md"):  # typed as they stand
                needed = [option.opts for option in command.params if option.required and option.opts[0][0] == "-"]
                wrong += [f"{page.name}: {line}: without {names[0]}" for names in needed if asked.isdisjoint(names)]
            seen += 1
    assert wrong == []
    assert seen > 60


def test_all_code_that_a_page_shows_is_there() -> None:
    for page in PAGES:
        for path, symbol in re.findall(
            r'^\{\{ code\("([^"]+)"(?:, "([^"]+)")?\) \}\}$', page.read_text("utf-8"), re.MULTILINE
        ):
            assert excerpt(path, symbol or None).count("\n") > 2, f"{page.name}: {path} {symbol}"
