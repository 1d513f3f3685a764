"""Every error crosses process borders as it was, says who must act by its exit code, and reads as a sentence."""

import inspect
import pickle

import pytest

from bamba_data import errors
from bamba_data.errors import (
    BambaError,
    CorruptInput,
    InputChanged,
    InputTooLarge,
    IntegrityError,
    SourceUnavailable,
    UnsafePath,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BambaError)]


def example(kind: type[BambaError]) -> BambaError:
    """With one distinct argument for each that the constructor wants."""
    if kind.__init__ is Exception.__init__:
        return kind("what happened")
    wanted = [
        parameter
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return kind(
        *(n if parameter.annotation in (int, int | None) else f"value {n}" for n, parameter in enumerate(wanted))
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_all_that_it_says(kind: type[BambaError]) -> None:
    error = example(kind)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args, vars(again)) == (kind, str(error), error.args, vars(error))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_has_the_exit_code_of_the_one_who_must_act(kind: type[BambaError]) -> None:
    branches = {errors.UserError: 2, errors.BudgetExceeded: 3, errors.Unfinished: 4, errors.IntegrityError: 5}
    expected = next((code for branch, code in branches.items() if issubclass(kind, branch)), 1)
    assert kind.exit_code == expected


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CorruptInput("u", "damaged", 1234567), "u: damaged at byte 1,234,567"),
        (CorruptInput("u", "damaged", 0), "u: damaged at byte 0"),
        (InputTooLarge("u", "inflates too much"), "u: inflates too much"),
        (
            SourceUnavailable("u", "status 503, 7 tries"),
            "u: not available now (status 503, 7 tries); run the same command again to go on",
        ),
        (
            InputChanged("u", "size", 10, 11),
            "u: size is 11, the lock says 10: the file changed since it was locked. Restore it, or lock the new one "
            "with --relock (a new dataset)",
        ),
        (UnsafePath("../x", "part '..'"), "unsafe path '../x': part '..'"),
    ],
)
def test_an_error_about_an_input_names_it_and_what_was_found(error: BambaError, text: str) -> None:
    assert str(error) == text


def test_an_input_that_is_too_large_is_a_corrupt_one_and_both_are_never_retried() -> None:
    assert issubclass(InputTooLarge, CorruptInput)
    assert issubclass(CorruptInput, IntegrityError)
