"""A backend that gives other ids than the reference gets no certificate; one that starts to later is caught."""

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bamba_data.errors import TokenizerError
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.conformance import Certificate, Difference, certify, choose, hard_corpus
from bamba_data.tokenization.tokenizer import BACKENDS, Encoded, Gigatoken, Reference, Tokenizer
from pipelines.dataset_build.driver import finish, run_here
from tests.building import prepared
from tests.corpora import TOKENIZER

pytestmark = pytest.mark.slow  # seconds of the whole hard corpus


class Remembering(Reference):
    """The reference, which encodes the hard corpus once and not for every liar anew."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._known: dict[int, tuple[list[str], Encoded]] = {}

    def encode(self, texts: Sequence[str]) -> Encoded:
        held = self._known.get(len(texts))
        if held is None or held[0] != list(texts):
            held = self._known[len(texts)] = (list(texts), super().encode(texts))
        return held[1]


@pytest.fixture(scope="module")
def remembering() -> Tokenizer:
    tokenizer = Tokenizer(TOKENIZER.read_bytes())
    tokenizer.__dict__["reference"] = Remembering(tokenizer.data)
    return tokenizer


@pytest.fixture(scope="module")
def corpus(tokenizer: Tokenizer) -> list[str]:
    return list(hard_corpus(tokenizer))


# -- the corpus


def test_the_corpus_is_the_same_on_every_machine(certificate: Certificate) -> None:
    """Golden: it stands in every manifest. It may depend on no version of Python, Unicode or a library."""
    assert certificate.corpus_sha256 == "d3d691e0fd4cebe096063e115e8d23e4714083fd6506be215f1aeb653e55610e"


def test_the_corpus_has_every_character_of_unicode(corpus: list[str]) -> None:
    assigned = {
        chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co") and c < 0xE0200
    }
    assert assigned <= set("".join(corpus))


def test_the_corpus_has_each_of_them_where_letters_are_told_from_the_rest(corpus: list[str]) -> None:
    before = {text[i - 1] for text in corpus if "'s" in text for i in range(1, len(text)) if text[i] == "'"}
    assert len(before) > 200_000


@pytest.mark.parametrize(
    "sort",
    [
        lambda text: len(text) >= 999_000,  # a line of a megabyte
        lambda text: text == "a" * 300_000,
        lambda text: text.count("\r\n") == 50_000,
        lambda text: "\x00" in text,
        lambda text: "<|endoftext|>" in text,
        lambda text: "👩‍👩‍👧‍👦" in text,
        lambda text: text.startswith(" " * 300_000),
    ],
)
def test_the_corpus_has_what_tokenizers_trip_over(corpus: list[str], sort: Callable[[str], bool]) -> None:
    assert any(map(sort, corpus))


def test_every_special_token_is_in_the_corpus_in_company(tokenizer: Tokenizer, corpus: list[str]) -> None:
    known = set(corpus)
    for token in tokenizer.reference.hf.get_added_tokens_decoder().values():
        assert {token.content, f"text {token.content} text", f"{token.content}{token.content}"} <= known


# -- who earns one


def test_gigatoken_earns_its_certificate(certificate: Certificate, corpus: list[str], tokenizer: Tokenizer) -> None:
    assert (certificate.backend, certificate.reference_version) == ("gigatoken", tokenizer.reference.version)
    assert certificate.texts == len(corpus)
    assert certificate.tokens > 3_000_000
    assert certificate.round_trips


class Liar:
    """Gives the reference's ids, but for one lie."""

    name, version = "liar", "1"

    def __init__(self, tokenizer: Tokenizer, lie: Callable[[list[str], list[np.ndarray]], list[np.ndarray]]) -> None:
        self._tokenizer, self._lie = tokenizer, lie

    def encode(self, texts: Sequence[str]) -> Encoded:
        told = self._lie(list(texts), self._tokenizer.reference.encode(texts).split())
        return Encoded(np.concatenate(told), np.array([len(ids) for ids in told], np.int64))


def on(sort: Callable[[str], bool], lie: Callable[[np.ndarray], np.ndarray]) -> object:
    """The lie on the first text of a sort."""

    def tell(texts: list[str], ids: list[np.ndarray]) -> list[np.ndarray]:
        found = next((n for n, text in enumerate(texts) if sort(text)), None)
        return [lie(one) if n == found else one for n, one in enumerate(ids)]

    return tell


LIES = {
    "one id of a megabyte line": on(lambda text: len(text) > 900_000, lambda ids: np.append(ids[:-1], 0)),
    "one rare character": on(lambda text: "\U0001f9ff" in text, lambda ids: ids + (np.arange(len(ids)) == 5)),
    "a token too many": on(lambda text: text == "<|endoftext|>", lambda ids: np.append(ids, 0)),
    "a token too few": on(lambda text: text == "a\nb", lambda ids: ids[:-1]),
    "two tokens changed places": on(lambda text: "2024" in text or len(text) == 4096, lambda ids: ids[::-1]),
    "nothing for an empty gap": on(lambda text: text == " ", lambda ids: ids[:0]),
    "a text forgotten": lambda texts, ids: ids[:-1],
    "a text too many": lambda texts, ids: [*ids, np.zeros(0, np.uint32)],
    "a token moved to the next text": lambda texts, ids: [ids[0][:-1], np.append(ids[0][-1:], ids[1]), *ids[2:]],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_backend_that_lies_gets_no_certificate(remembering: Tokenizer, lie: str) -> None:
    found = certify(remembering, Liar(remembering, LIES[lie]))  # type: ignore[arg-type]
    assert isinstance(found, Difference)
    assert "liar and tokenizers disagree on" in str(found)


def test_a_backend_that_obeys_special_tokens_gets_no_certificate(remembering: Tokenizer) -> None:
    obedient = Reference(remembering.data)
    obedient.hf.encode_special_tokens = False
    obedient.name = "obedient"
    found = certify(remembering, obedient)
    assert isinstance(found, Difference) and "<|" in found.text


def test_gigatoken_without_its_detour_gets_no_certificate(remembering: Tokenizer) -> None:
    """Its Unicode is newer than the reference's: what the detour in `Gigatoken` is for."""
    bare = Gigatoken(remembering)
    bare.encode = lambda texts: bare._encode(list(texts))  # type: ignore[method-assign]
    assert isinstance(certify(remembering, bare), Difference)


@pytest.fixture
def lying(remembering: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """`liar` is what `auto` would like best."""
    lie = LIES["a token too few"]
    choose.cache_clear()
    kept = dict(BACKENDS)
    BACKENDS.clear()
    BACKENDS.update({"liar": lambda tokenizer: Liar(remembering, lie), "tokenizers": kept["tokenizers"]})  # type: ignore[arg-type,dict-item]
    yield remembering
    BACKENDS.clear()
    BACKENDS.update(kept)
    choose.cache_clear()


def test_auto_passes_a_liar_over_and_says_so(lying: Tokenizer) -> None:
    backend, certificate, passed_over = choose(lying, "auto")
    assert backend.name == certificate.backend == "tokenizers"
    (remark,) = passed_over
    assert remark.startswith("no identity certificate: liar and tokenizers disagree on 'a\\nb'")


def test_a_liar_that_was_asked_for_by_name_is_an_error(lying: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="no identity certificate: liar"):
        choose(lying, "liar")


# -- caught while it runs


class TurnsBad(Gigatoken):
    """Certified, and then bad RAM, an update, a rare path: other ids."""

    name = "turns-bad"
    lie: Callable[[Encoded], Encoded]

    def encode(self, texts: Sequence[str]) -> Encoded:
        return type(self).lie(super().encode(texts))


def other_ids(encoded: Encoded) -> Encoded:
    return Encoded(encoded.ids ^ 1, encoded.lengths)


def beyond_the_vocabulary(encoded: Encoded) -> Encoded:
    return Encoded(np.where(np.arange(len(encoded.ids)) == 3, 50_280, encoded.ids), encoded.lengths)


@pytest.mark.parametrize("lie", [other_ids, beyond_the_vocabulary])
def test_a_backend_that_turns_bad_is_caught_and_its_parts_are_redone_with_the_reference(
    tiny: Path,
    tmp_path: Path,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[Encoded], Encoded],
) -> None:
    monkeypatch.setitem(BACKENDS, "turns-bad", TurnsBad)
    monkeypatch.setattr(TurnsBad, "lie", staticmethod(lie), raising=False)
    ready = prepared(tmp_path, dataclasses.replace(certificate, backend="turns-bad"), str(tiny.parent / "tiny.yaml"))
    lines: list[str] = []
    assert run_here(ready, Fetcher(), remark=lines.append) == []
    _, manifest = finish(ready)
    assert len(lines) == manifest.backend.parts_redone == 4  # one for every unit: the rest of it is the reference's
    assert all("part 0 is redone with tokenizers" in line and "turns-bad" in line for line in lines)
    quiet, found = open_dataset(str(tiny)).shards, open_dataset(str(tmp_path)).shards
    by = ("backend", "software")  # who made a shard, which is all that differs
    assert found.drop(by).equals(quiet.drop(by))
    assert set(found["backend"]) == {"tokenizers"} and set(quiet["backend"]) == {"gigatoken"}
    assert verify(str(tmp_path), full=True).faults == []


def test_a_backend_that_is_good_is_sampled_in_every_part(tiny: Path) -> None:
    manifest = open_dataset(str(tiny)).manifest
    assert manifest.backend.parts_redone == 0
    assert manifest.backend.sampled_documents >= 9
    assert manifest.backend.sampled_tokens > 1000
