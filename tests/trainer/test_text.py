"""A text comes in whole characters, and ends before a stop string, wherever tokens are cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bamba_data.errors import UserError
from tests.corpora import TOKENIZER
from trainer.decode.detokenizer import Detokenizer
from trainer.decode.sampling import Sampling, choosing
from trainer.decode.text import Text, Until

SHIPPED = Tokenizer.from_file(str(TOKENIZER))


def by_bytes() -> Tokenizer:
    """A token a byte: every border of tokens there can be."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


def with_blanks() -> Tokenizer:
    """As SentencePiece writes words: the blank before the first of a text is no part of it; bytes for the rest."""
    words = {"<unk>": 0, "▁a": 1, "▁b": 2, "c": 3, "▁": 4}
    words |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    made = Tokenizer(models.BPE(words, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


BYTES, BLANKS = by_bytes(), with_blanks()


def pieces(tokenizer: Tokenizer, ids: list[int], before: list[int] | None = None) -> list[str]:
    made = Detokenizer(tokenizer, before or [])
    return [*(made.add(token) for token in ids), made.rest()]


@given(st.lists(st.integers(0, 50_000), max_size=12))
def test_pieces_of_any_tokens_are_together_what_all_decode_to(ids: list[int]) -> None:
    assert "".join(pieces(SHIPPED, ids)) == SHIPPED.decode(ids)


@given(st.lists(st.sampled_from([*range(256), *BYTES.encode("é€😀").ids]), max_size=12))
def test_pieces_of_any_bytes_are_together_what_all_decode_to(ids: list[int]) -> None:
    assert "".join(pieces(BYTES, ids)) == BYTES.decode(ids)


@given(st.lists(st.sampled_from(range(1, 5)), min_size=1, max_size=12))
def test_blanks_between_words_are_those_of_the_whole(ids: list[int]) -> None:
    assert "".join(pieces(BLANKS, ids)) == BLANKS.decode(ids)
    assert "".join(pieces(BLANKS, ids, before=[1])) == BLANKS.decode([1, *ids]).removeprefix("a")


def test_a_character_of_several_tokens_comes_whole_and_at_once() -> None:
    for text in ("é", "€", "😀", "a€b"):
        for tokenizer, ids in ((BYTES, BYTES.encode(text).ids), (BLANKS, [5 + byte for byte in text.encode()])):
            shown = pieces(tokenizer, ids)
            assert "".join(shown) == text and all("\ufffd" not in piece for piece in shown)
            assert shown[-2] != "" and shown[-1] == "", "the last token completes it"


def until(*stops: str, tokens: int = 99) -> Until:
    return Until.of(BYTES, tokens, [BYTES.token_to_id("<end>")], stops)


def written(ids: list[int], until: Until, tokenizer: Tokenizer = BYTES) -> tuple[list[str], Text]:
    text = Text(tokenizer, until)
    shown = []
    for token in ids:
        shown.append(text.add(token))
        if text.why:
            break
    return shown, text


@pytest.mark.parametrize("stop", ["\n\n", "Question:", "€!", "aab", "é"])
@pytest.mark.parametrize("ours", ["aaabé", "x€!€", "a Question: b\n\nc", "Quest\n", "é€é"])
def test_a_stop_string_is_found_across_tokens_and_nothing_of_it_is_shown(stop: str, ours: str) -> None:
    shown, text = written(BYTES.encode(ours).ids, until(stop))
    before, found, _ = ours.partition(stop)
    assert text.why == ("stop" if found else None)
    assert "".join([*shown, text.end("tokens")]) == before == text.text
    before_bytes = len((before + found).encode())
    assert len(text.ids) == before_bytes, "no token more than the one that completes it"


def test_a_stop_string_is_found_in_a_token_that_goes_on_after_it_or_ends_within_a_character() -> None:
    words = {
        "x": 0,
        "one": 1,
        ".\u010a\u010atwo": 2,
        "END\u00e2": 3,
    }  # \u010a is a newline, \u00e2 a first byte of three
    made = Tokenizer(models.WordLevel(words, "x"))
    made.decoder = decoders.ByteLevel()
    _, text = written([1, 2], until("\n\n"), made)
    assert (text.text, text.why) == ("one.", "stop")
    shown, text = written([1, 3, 1], until("END"), made)
    assert (shown, text.text, text.why) == (["one", ""], "one", "stop")


@given(st.text("abé€", max_size=9), st.lists(st.text("abé€", min_size=1, max_size=3), max_size=3))
def test_what_is_shown_is_the_text_and_never_taken_back(ours: str, stops: list[str]) -> None:
    shown, text = written(BYTES.encode(ours).ids, until(*stops))
    assert "".join([*shown, text.end("tokens")]) == text.text
    assert ours.startswith(text.text) and not any(stop in text.text for stop in stops)
    assert (text.text != ours) == (text.why == "stop") == any(stop in ours for stop in stops)


def test_an_id_that_ends_a_text_and_a_number_of_tokens_end_it() -> None:
    end = BYTES.token_to_id("<end>")
    a, b = BYTES.encode("ab").ids
    shown, text = written([a, end, b], until("az"))
    assert (shown, text.text, text.why, text.ids) == (["", "a"], "a", "end", [a])
    shown, text = written([a, b, a], until("bz", tokens=2))
    assert (shown, text.text, text.why) == (["a", "b"], "ab", "tokens")
    assert text.add(a) == "" and text.text == "ab"


def test_a_stop_string_that_is_a_special_token_is_that_token() -> None:
    only = Until.of(BYTES, 9, [None], ["<end>"])
    _, text = written([*BYTES.encode("a").ids, BYTES.token_to_id("<end>")], only)
    assert (text.text, text.why) == ("a", "end")


def test_nothing_to_stop_at_and_no_token_are_refused() -> None:
    with pytest.raises(UserError, match="a stop string is empty"):
        until("a", "")
    with pytest.raises(UserError, match="one at least is needed"):
        until(tokens=0)


LOGITS = torch.tensor([[2.0, 5.0, 4.0, 1.0], [0.0, 0.0, 3.0, 3.0]])


def test_each_row_draws_by_its_own_seed_in_a_batch_of_any_order() -> None:
    sampling = Sampling(temperature=1.5, top_tokens=3, top_p=0.95)
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))

    def drawn(rows: list[int]) -> list[list[int]]:
        choose = choosing(sampling, [7 + row for row in rows])
        return [choose(logits[rows] * scale) for scale in (1.0, 0.5, 2.0, 1.5, 1.0)]

    together = [list(row) for row in zip(*drawn([0, 1, 2, 3, 4]), strict=True)]
    assert [list(row) for row in zip(*drawn([3, 1]), strict=True)] == [together[3], together[1]]
    assert [token for (token,) in drawn([4])] == together[4]
    assert len({tuple(row) for row in together}) > 1


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (Sampling(0.0), {1}),
        (Sampling(1.0), {0, 1, 2, 3}),
        (Sampling(1.0, top_tokens=2), {1, 2}),
        (Sampling(1.0, top_tokens=99), {0, 1, 2, 3}),
        (Sampling(1.0, top_p=0.01), {1}),
        (Sampling(1.0, top_p=0.72), {1, 2}),  # shares of 0.70, 0.26, 0.03, 0.01
        (Sampling(0.1, top_p=0.99), {1}),
    ],
)
def test_only_the_likeliest_are_drawn_and_each_of_them(sampling: Sampling, wanted: set[int]) -> None:
    rows = LOGITS[:1].expand(2000, 4)
    assert set(choosing(sampling, list(range(2000)))(rows)) == wanted


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    drawn = choosing(Sampling(2.0), list(range(4000)))(LOGITS[:1].expand(4000, 4))
    found = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
    assert (found - (LOGITS[0] / 2).softmax(-1)).abs().max() < 0.03


@pytest.mark.parametrize(
    "values", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_tokens": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_a_rule_that_cannot_be_is_refused_by_name(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(UserError, match=name.removesuffix("_tokens")):
        Sampling(**values)  # type: ignore[arg-type]
