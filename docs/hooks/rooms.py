"""The map of the house, made from docstrings: every package and sub-package with its promise, every file in a line."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bamba_data", "pipelines", "loader", "trainer")

HEAD = """# Rooms

Where a thing is. Made from the first lines of the files themselves: packages in the order in which data meets them,
sub-packages with what goes in, what comes out and what always holds, then every file with its promise.

"""


def page() -> str:
    return HEAD + "\n".join(line for package in PACKAGES for line in _room(ROOT / package, level=2))


def _room(folder: Path, level: int) -> Iterator[str]:
    name = folder.relative_to(ROOT).as_posix()
    yield f"{'#' * level} {name}/\n"
    promise, _, rest = _docstring(folder / "__init__.py").partition("\n\n")
    yield f"{_line(promise)}\n"
    if rest.startswith("in "):  # the mental model of a room, in columns
        yield f"```text\n{rest}\n```\n"
    files = [file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py" and _docstring(file)]
    if files:
        yield "| file | |\n| --- | --- |"
        yield from (f"| `{file.name}` | {_line(_docstring(file)).replace('|', chr(92) + '|')} |" for file in files)
        yield ""
    for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file()):
        yield from _room(inner, level + 1)


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _line(text: str) -> str:
    """The first sentence, in a line, as markdown: what looks like HTML or an emphasis is neither."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    end = next((at + 1 for at in range(len(paragraph)) if paragraph[at : at + 2] == ". "), len(paragraph))
    return paragraph[:end].replace("<", "&lt;").replace("*", "\\*")
