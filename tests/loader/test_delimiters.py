"""Delimiters are found in the tokenizer by name, or given; where the tokenizer does not say, that is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import UserError
from bamba_data.tokenization.delimiters import special_tokens, usual
from loader import build_loader
from tests.corpora import TOKENIZER

MIX: dict[str, Any] = {"row_tokens": 32, "batch_rows": 4, "num_workers": 0}


def plan_of(data: Path, cache: Path, **more: Any) -> Any:
    return build_loader(str(data), **MIX, cache=cache, **more).plan.header


def test_eos_is_the_tokenizers_own(tiny: Path, cache: Path) -> None:
    added = {one["content"]: one["id"] for one in json.loads(TOKENIZER.read_bytes())["added_tokens"]}
    header = plan_of(tiny, cache)
    assert (header.before, header.after) == ([], [added["<|endoftext|>"]])


@pytest.mark.parametrize(
    ("kind", "before", "after"), [("none", [], []), ("bos", [7], []), ("eos", [], [8]), ("both", [7], [8])]
)
def test_ids_that_are_given_are_taken(tiny: Path, cache: Path, kind: str, before: list[int], after: list[int]) -> None:
    header = plan_of(tiny, cache, delimiters=kind, bos_id=7, eos_id=8)
    assert (header.before, header.after) == (before, after)


@pytest.mark.parametrize("kind", ["bos", "both"])
def test_a_tokenizer_without_bos_asks_for_it(tiny: Path, cache: Path, kind: str) -> None:
    with pytest.raises(UserError, match="give bos_id"):
        plan_of(tiny, cache, delimiters=kind)


def test_an_unknown_kind_is_refused_with_what_there_is(tiny: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"'sep'.*eos, bos, both, none"):
        plan_of(tiny, cache, delimiters="sep")


@pytest.mark.parametrize("given", [-1, 50_280, 10**9])
def test_an_id_beyond_the_vocabulary_is_refused(tiny: Path, cache: Path, given: int) -> None:
    with pytest.raises(UserError, match="vocabulary"):
        plan_of(tiny, cache, eos_id=given)


def test_two_names_that_may_be_it_are_an_error_that_lists_them() -> None:
    made = {
        "added_tokens": [
            {"content": "<|end_of_text|>", "id": 1, "special": True},
            {"content": "<|endoftext|>", "id": 2, "special": True},
            {"content": "</s>", "id": 3, "special": False},
        ]
    }
    special = special_tokens(json.dumps(made).encode())
    assert special == {"<|end_of_text|>": 1, "<|endoftext|>": 2}
    with pytest.raises(UserError, match=r"<\|end_of_text\|>, <\|endoftext\|>.*give eos_id"):
        usual(special, ("<|end_of_text|>", "<|endoftext|>"), "eos")
