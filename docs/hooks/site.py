"""What the site shows that is not written in docs/: pages made from the code, excerpts of it, and copies of files.

    {{ code("loader/order/mixture.py", "Mix") }}    a function, class or method as it is in the tree today
    [file](../k8s/README.md)              a link out of docs/ leads to a copy of that file on the site
    formats.md, cli.md, changelog.md, …   pages that GENERATED makes; none of them lies in docs/

What is not there fails the build: a page cannot speak of code that is gone.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs.hooks import commands, formats, recipes, rooms
from docs.hooks.excerpts import excerpt, from_root

ROOT = Path(__file__).resolve().parents[2]

#: Pages that lie elsewhere, or nowhere: their markdown, by the place they have on the site.
GENERATED: dict[str, Callable[[], str]] = {
    "cli.md": commands.page,
    "formats.md": formats.page,
    "rooms.md": rooms.page,
    "recipes.md": recipes.page,
    "changelog.md": lambda: from_root("CHANGELOG.md"),
    "contributing.md": lambda: from_root("CONTRIBUTING.md"),
    "security.md": lambda: from_root("SECURITY.md"),
}

_CODE = re.compile(r'^\{\{ code\("([^"]+)"(?:, "([^"]+)")?\) \}\}$', re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    for uri, page in GENERATED.items():
        files.append(File.generated(config, uri, content=page()))
    pages = [file for file in files if file.is_documentation_page()]
    linked = {path for page in pages for link in _LINK.findall(page.content_string) if (path := _outside(page, link))}
    for path in sorted(linked):
        if not (ROOT / path).is_file():
            raise PluginError(f"a page links to {path}, which is not in the repository")
        files.append(File.generated(config, _copy(path), content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    up = "../" * page.file.src_uri.count("/")
    try:
        markdown = _CODE.sub(lambda match: excerpt(match[1], match[2]), markdown)
    except LookupError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None

    def to_the_copy(match: re.Match[str]) -> str:
        path = _outside(page.file, match[1])
        return f"{up}{_copy(path)}" if path else match[1]

    return _LINK.sub(to_the_copy, markdown)


def _outside(page: File, link: str) -> str | None:
    """The path in the repository of what a page links to; None for what lies in docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), link))
    return None if path.startswith("docs/") else path


def _copy(path: str) -> str:
    """Where the copy of a file lies. As text: a browser would offer to save `kustomization.yaml`."""
    return f"files/{path}" if path.endswith((".txt", ".html", ".svg", ".png")) else f"files/{path}.txt"
