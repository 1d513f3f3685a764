"""Any input can be left out, by its name or by a pattern, and all that are without a byte are named at once."""

import pytest

from bamba_data.errors import RecipeError
from bamba_data.locking.exclusions import quarantined, refuse_empty
from bamba_data.locking.input_faults import InputFaults
from bamba_data.recipe import BadInput
from bamba_data.storage.locked_file import Facts, LockedFile

KEYS = ["web/a/1.gz", "web/a/2.gz", "web/b/1.gz", "web/x[1].gz", "books/1.gz"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], set()),
        (["web/a/1.gz"], {"web/a/1.gz"}),
        (["web/a/*"], {"web/a/1.gz", "web/a/2.gz"}),
        (["web/*"], set(KEYS) - {"books/1.gz"}),
        (["*/1.gz", "web/a/?.gz"], {"web/a/1.gz", "web/a/2.gz", "web/b/1.gz", "books/1.gz"}),
        (["web/x[1].gz"], {"web/x[1].gz"}),  # a name goes before a pattern
        (["web/[ab]/1.gz"], {"web/a/1.gz", "web/b/1.gz"}),
    ],
)
def test_inputs_are_left_out_by_name_or_by_pattern(patterns: list[str], expected: set[str]) -> None:
    assert quarantined(patterns, KEYS) == expected


def test_all_that_name_no_input_are_refused_together_with_an_example_of_a_name() -> None:
    message = r"quarantine: \['web/c/\*', 'Web/a/1.gz'\] are no inputs of this recipe; an input is named books/1.gz"
    with pytest.raises(RecipeError, match=message):
        quarantined(["web/c/*", "web/a/1.gz", "Web/a/1.gz"], KEYS)


def files(*sizes: int | None) -> list[LockedFile]:
    return [LockedFile("web", f"{n}.gz", f"/in/{n}.gz", Facts(size)) for n, size in enumerate(sizes)]


def test_all_empty_inputs_are_named_at_once_with_the_way_out() -> None:
    with pytest.raises(InputFaults) as caught:
        refuse_empty(files(0, 10, 0, None), BadInput())
    assert str(caught.value) == (
        "2 inputs cannot be read:\n  /in/0.gz: the file is empty\n  /in/2.gz: the file is empty\n"
        "restore them; or take them as inputs without records: --set bad_input.empty_files=keep; or leave them out: "
        "--quarantine SOURCE/PATH, patterns allowed"
    )
    assert caught.value.exit_code == 5


def test_of_hundreds_ten_are_shown_and_all_counted() -> None:
    with pytest.raises(InputFaults, match=r"300 inputs cannot be read:\n(  /in/\d+.gz: .*\n){10}  and 290 more"):
        refuse_empty(files(*[0] * 300), BadInput())


def test_a_recipe_may_keep_them() -> None:
    refuse_empty(files(0), BadInput(empty_files="keep"))
