"""Who has taken our short names: `import loader` may find a file beside a script, `import trainer` another package.

Our own code says `bamba.loader` and is not harmed; a script of the user's that says `loader` is, so it is told. Nothing
is imported to find out.
"""

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

NAMES = ("loader", "trainer", "pipelines")


def intruders() -> Iterator[str]:
    """A line on each of our names by which a script would not reach us."""
    bamba = find_spec("bamba")
    if bamba is None or not bamba.origin:
        return
    home = Path(bamba.origin).resolve().parent
    for name in NAMES:
        spec = _found_by_import(name)
        if spec is None:
            yield f'"import {name}" finds nothing: use "bamba.{name}" (another package may have removed our file)'
            continue
        place = Path(spec.origin or next(iter(spec.submodule_search_locations or ["?"])))
        if not _is_ours(place, home, name):
            yield f'"import {name}" finds {place}, which is not of bamba-data: use "bamba.{name}"'


def _found_by_import(name: str) -> ModuleSpec | None:
    """What a fresh `import` would find. `importlib.util.find_spec` would say what this process has imported already."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(name, None)) is not None:
            return spec
    return None


def _is_ours(place: Path, home: Path, name: str) -> bool:
    """In a checkout `bamba/<name>` is a link to that folder; in a wheel a file of a few lines leads there."""
    if place.resolve() == (home / name / "__init__.py").resolve():
        return True
    try:
        return place.name == "__init__.py" and f"import bamba.{name}\n" in place.read_text("utf-8", errors="replace")
    except OSError:  # within a zip file, or not ours to read
        return False
