"""Which inputs a recipe leaves out, and what it says of those without a byte."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from bamba_data.errors import CorruptInput, RecipeError
from bamba_data.locking.input_faults import InputFaults
from bamba_data.recipe import BadInput
from bamba_data.storage.locked_file import NOT_ASKED, LockedFile


def quarantined(patterns: Sequence[str], keys: Iterable[str]) -> set[str]:
    """The inputs, of these `<source>/<path>`, that are in quarantine: named as they are, or by a pattern with `*`, `?`
    or `[ ]`, where `*` takes `/` too. Raises RecipeError for one that names no input: a slip would let bad data in."""
    known = set(keys)
    excluded: set[str] = set()
    unknown = []
    for pattern in patterns:
        matched = {pattern} & known or {key for key in known if fnmatchcase(key, pattern)}
        excluded |= matched
        unknown += [] if matched else [pattern]
    if unknown:
        example = f"; an input is named {min(known)}" if known else ""
        raise RecipeError(f"bad_input.quarantine: {unknown} are no inputs of this recipe{example}")
    return excluded


def refuse_empty(files: Iterable[LockedFile], rules: BadInput) -> None:
    """All inputs without a byte at once, before any work, unless the recipe keeps them. Of those whose host tells no
    size their reader finds out."""
    empty = [file for file in files if file.facts.size_bytes == 0]
    if not empty or rules.empty_files == "keep":
        return
    faults = [CorruptInput(file.url, "the file is empty") for file in empty]
    raise InputFaults(
        faults,
        "restore them; or take them as inputs without records: --set bad_input.empty_files=keep; or leave them out: "
        "--quarantine SOURCE/PATH, patterns allowed",
    )


def is_left_out(key: str, patterns: Sequence[str]) -> bool:
    """Whether an input would be in quarantine, before it is known what inputs there are."""
    return key in patterns or any(fnmatchcase(key, pattern) for pattern in patterns)


def refuse_unasked(files: Iterable[LockedFile]) -> None:
    """Inputs that are wanted now, but were in quarantine when the others were locked."""
    if unasked := sorted(file.key for file in files if file.facts == NOT_ASKED):
        raise RecipeError(
            f"{', '.join(unasked[:10])}: in quarantine when the inputs were locked, so nothing is known of it: "
            "lock it with --relock (a mirror: download it again), or leave it in quarantine"
        )
