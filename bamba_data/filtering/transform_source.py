"""Where the function of a `transform` is written, and what it stands on: found, read and checked, as it is locked.

The module is one file, beside the recipe or on Python's path. Nothing outside it may decide what the function does but
the standard library and the packages that the rule names: what else it imports is refused, since nobody would notice
when that changes.
"""

import ast
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bamba_data.canonical_json import sha256
from bamba_data.errors import MachineFault, RecipeError
from bamba_data.filtering.transform import Transform
from bamba_data.recipe import Recipe
from bamba_data.sources.base import TransformRule

MAX_BYTES = 1 << 20  # of a source file: it travels with every unit
PYTHON = "python"

#: Sources of modules by their sha256.
Code = Mapping[str, bytes]


class Pinned(NamedTuple):
    """A recipe whose transforms say what they are, and the sources of these."""

    recipe: Recipe
    code: Code


def pinned(recipe: Recipe, folder: Path) -> Pinned:
    """The recipe with the sha256 of every transform's source, and the versions of its packages.

    Args:
        recipe: As it was written.
        folder: Where it lies: modules are looked for there first.

    Raises:
        RecipeError: A function cannot be imported, is none, or is not in one file; or it is not what the recipe pins.
    """
    code: dict[str, bytes] = {}
    corpora = []
    for number, corpus in enumerate(recipe.corpora):
        if corpus.transform is not None:
            try:
                rule, source = _pinned(corpus.transform, folder)
            except RecipeError as error:
                raise RecipeError(f"corpora.{number}.{error}") from None
            code[str(rule.sha256)] = source
            corpora.append(corpus.model_copy(update={"transform": rule}))
        else:
            corpora.append(corpus)
    return Pinned(recipe.model_copy(update={"corpora": corpora}) if code else recipe, code)


def loaded(rule: TransformRule | None, code: Code) -> Transform | None:
    """The transform of a locked rule, on this machine.

    Raises:
        MachineFault: A package is not here in the version that was locked.
        RecipeError: The source is not at hand.
    """
    if rule is None:
        return None
    if unlike := unlike_locked(rule):
        raise MachineFault(platform.node(), "", f"transform {rule.function}: {unlike}")
    if rule.sha256 is None or rule.sha256 not in code:
        raise RecipeError(f"transform {rule}: its source is not at hand")
    return Transform(rule, code[rule.sha256])


def unlike_locked(rule: TransformRule) -> str | None:
    """Which packages are here in other versions than those that were locked; None where none is."""
    others = [
        f"{name} is {installed(name) or 'not installed'} here, {version} in the lock"
        for name, version in rule.versions.items()
        if installed(name) != version
    ]
    return "; ".join(others) or None


def installed(name: str) -> str | None:
    """The version of a distribution, or of Python."""
    if name == PYTHON:
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def beside(recipe: Recipe, folder: Path) -> list[Path]:
    """The sources of a recipe's transforms that lie beside it, in `folder` or below: they go where the recipe goes."""
    rules = [corpus.transform for corpus in recipe.corpora if corpus.transform]
    files = dict.fromkeys(_beside(rule.module, folder) for rule in rules)
    return [file for file in files if file.is_file()]


def at_hand(rule: TransformRule | None, folder: Path | None) -> tuple[Transform | None, str]:
    """The transform that a dataset was made by, with its source from a folder of the user's; or why it is not to be
    had.

    Nobody's code is run that the user has not named: not the one that a dataset brings, for there is none, and not
    what stands on Python's path under the name that a manifest says.
    """
    if rule is None:
        return None, ""
    made_by = f"transform {rule} made it"
    if folder is None:
        return None, f"{made_by}: to have that run again, name the folder of its source (--code FOLDER)"
    path = _beside(rule.module, folder)
    if not path.is_file():
        return None, f"{made_by}, and {path} is not there"
    code = read_source(path)
    if sha256(code) != rule.sha256:
        return None, f"{made_by}, and {path} is another source, sha256 {sha256(code)[:16]}"
    if unlike := unlike_locked(rule):
        return None, f"{made_by}: {unlike}"
    return Transform(rule, code), ""


def read_source(path: Path) -> bytes:
    """Raises RecipeError for one that cannot be read, or is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path}: has more than {MAX_BYTES:,} bytes: is it the right file?")
    return data


def _pinned(rule: TransformRule, folder: Path) -> tuple[TransformRule, bytes]:
    what = f"transform: {rule.function}"
    path = _found(rule.module, folder, what)
    code = read_source(path)
    digest = sha256(code)
    if rule.sha256 not in (None, digest):
        raise RecipeError(f"{what}: {path} has sha256 {digest}, the recipe says {rule.sha256}")
    packages = []
    for name, wanted in rule.versions.items():
        here = installed(name)
        if here is None:
            raise RecipeError(f"{what}: package {name} is not installed here")
        if wanted not in (None, here):
            raise RecipeError(f"{what}: package {name} is {here} here, the recipe says {wanted}")
        packages.append(f"{name}=={here}")
    _check_source(rule, code, path, what)
    locked = rule.model_copy(update={"sha256": digest, "packages": packages})
    try:
        Transform(locked, code)
    except RecipeError as error:
        raise RecipeError(f"{error} ({path})") from None
    return locked, code


def _beside(module: str, folder: Path) -> Path:
    return folder / f"{module.replace('.', '/')}.py"


def _found(module: str, folder: Path, what: str) -> Path:
    """The file of a module, without running anything of it."""
    here = _beside(module, folder)
    if here.is_file():
        return here
    places: list[str] | None = None
    origin, is_package = None, False
    for depth in range(len(module.split("."))):
        name = ".".join(module.split(".")[: depth + 1])
        specs = (finder.find_spec(name, places) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            raise RecipeError(f"{what}: there is no module {name}, neither at {here} nor on Python's path")
        is_package = spec.submodule_search_locations is not None
        places, origin = list(spec.submodule_search_locations or []), spec.origin
    if is_package:
        raise RecipeError(f"{what}: {module} is a package, not one file: name the module in it that has the function")
    if origin is None or not origin.endswith(".py") or not Path(origin).is_file():
        raise RecipeError(f"{what}: {module} has no source file ({origin}): put the function into a .py file")
    return Path(origin)


def _check_source(rule: TransformRule, code: bytes, path: Path, what: str) -> None:
    try:
        tree = ast.parse(code, str(path))
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"{what}: {path} is no Python ({error})") from None
    kinds = {node.name: type(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if kinds.get(rule.name) is not ast.FunctionDef:
        have = ", ".join(name for name, kind in kinds.items() if kind is ast.FunctionDef) or "none"
        raise RecipeError(f"{what}: {path} defines no function {rule.name} (its functions: {have})")
    allowed = sys.stdlib_module_names | _modules_of(rule.versions)
    for top in _imported(tree, rule.module):
        if top not in allowed:
            packages = importlib.metadata.packages_distributions().get(top, [])
            way_out = (
                f"say packages: [{', '.join(sorted(set(packages)))}]"
                if packages
                else f"put what it needs of it into {path.name}, so that the source is one file"
            )
            raise RecipeError(
                f"{what}: {path} imports {top}, which is neither of the standard library nor of the packages that the "
                f"recipe names, and a change of it would go unnoticed: {way_out}"
            )


def _imported(tree: ast.Module, module: str) -> Iterator[str]:
    """The top-level modules that are imported anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield module.partition(".")[0] if node.level else str(node.module).partition(".")[0]


def _modules_of(packages: Mapping[str, str | None]) -> set[str]:
    """The top-level modules of distributions."""
    names = {_plain(name) for name in packages}
    if not names - {PYTHON}:
        return set()
    listed = importlib.metadata.packages_distributions().items()
    # Of what is installed from a checkout no module may be listed: its own name then stands for it.
    return {top for top, owners in listed if names & set(map(_plain, owners))} | names


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
