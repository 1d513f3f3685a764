"""The address that nothing else takes: `bamba.loader`, `bamba.trainer`, `bamba.pipelines`.

`loader`, `trainer` and `pipelines` are names that others have too: a `loader.py` beside your script, a package
`trainer` on the index. Our own code therefore never says them: inside a package imports are relative, between
packages they go through here. `import loader` works as before wherever it finds us, and gives the same module objects.

In a checkout the packages lie beside this folder and are linked into it. In a wheel they lie in it, and at their short
names only what `_top_level` holds.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

SHORT_NAMES = ("loader", "trainer", "pipelines")

_HERE = Path(__file__).resolve().parent
if not (_HERE / SHORT_NAMES[0] / "__init__.py").is_file():  # a copy that lost its symbolic links
    __path__.append(str(_HERE.parent))


def unite(name: str) -> None:
    """Called by each of our packages as it is imported: under its short name it is the module of its address."""
    if name in SHORT_NAMES:
        sys.modules[name] = import_module(f"bamba.{name}")


class _SameModule(Loader):
    """Gives what `bamba.<name>` is."""

    def __init__(self, name: str) -> None:
        self._address = f"bamba.{name}"

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._address)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the short name's there

    def get_code(self, name: str) -> CodeType | None:
        """For `python -m loader.quality`."""
        loader: Any = getattr(find_spec(self._address), "loader", None)
        return None if loader is None else loader.get_code(self._address)


class _ShortNames(MetaPathFinder):
    """`loader.x` is `bamba.loader.x` where `loader` is ours."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top not in SHORT_NAMES or not rest or sys.modules.get(top) is not sys.modules.get(f"bamba.{top}"):
            return None  # `loader` is somebody else's
        address = find_spec(f"bamba.{name}")
        if address is None:
            return None
        is_package = address.submodule_search_locations is not None
        return spec_from_loader(name, _SameModule(name), origin=address.origin, is_package=is_package)


sys.meta_path.insert(0, _ShortNames())
