"""Pieces of the repository as markdown: the source of a symbol as it is today, and pages that lie at the root."""

import ast
import contextlib
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def excerpt(path: str, symbol: str | None = None) -> str:
    """A fenced block with the source of `symbol` (`Class.method`, `CONSTANT`) in `path`, or of the whole file.

    `path` may be a folder: then the symbol must be in one of its files, wherever that lies, and in no other.

    Raises:
        LookupError: there is no such file, no such symbol in it, or several in the folder.
    """
    place = ROOT / path
    if place.is_dir() and symbol is not None:
        place = _only_file_with(place, symbol)
    if not place.is_file():
        raise LookupError(f"{path} is not in the repository")
    path = place.relative_to(ROOT).as_posix()
    source = place.read_text(encoding="utf-8")
    if symbol is not None:
        source = _source_of(source, symbol, path)
    language = {".py": "python", ".yaml": "yaml"}.get(place.suffix, "text")
    return f'```{language} title="{path}"\n{source.rstrip()}\n```'


def _only_file_with(folder: Path, symbol: str) -> Path:
    name = symbol.rpartition(".")[2]
    found = []
    for file in sorted(folder.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if name in source:
            with contextlib.suppress(LookupError):
                _source_of(source, symbol, str(file))
                found.append(file)
    if len(found) != 1:
        raise LookupError(
            f"{symbol} is in {len(found)} files of {folder.name}/: {', '.join(map(str, found)) or 'gone'}"
        )
    return found[0]


def _source_of(source: str, symbol: str, path: str) -> str:
    node: ast.AST = ast.parse(source)
    for name in symbol.split("."):
        node = _member(node, name, f"{path} has no {symbol}")
    assert isinstance(node, ast.stmt)
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : node.end_lineno]))


def _member(node: ast.AST, name: str, otherwise: str) -> ast.stmt:
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and child.name == name:
            return child
        targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return child
    raise LookupError(otherwise)


def from_root(name: str) -> str:
    """A page at the root of the repository, with its links as seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")

    def seen_from_docs(match: re.Match[str]) -> str:
        target = match[1]
        if target.startswith(("http://", "https://", "#", "mailto:")):
            return target
        if target in _ON_THE_SITE:
            return _ON_THE_SITE[target]
        return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"

    return re.sub(r"(?<=\]\()([^)\s]+)(?=\))", seen_from_docs, text)


#: Where pages of the root are on the site.
_ON_THE_SITE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    "benchmarks/README.md": "benchmarks.md",
}
