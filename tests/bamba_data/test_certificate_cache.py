"""A certificate that this host proved before is believed for as long as all that it rests on is the same."""

import importlib.metadata
import platform
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bamba_data.tokenization import conformance as certificates
from bamba_data.tokenization import conformance_cache
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.tokenizer import Gigatoken, Reference, Tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAMBA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "certificates"


@pytest.fixture
def proofs(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that were put to the proof, each of which passed."""
    proven: list[str] = []

    def certify(_: Tokenizer, backend: Gigatoken) -> Certificate:
        proven.append(backend.version)
        return certificate

    monkeypatch.setattr(certificates, "certify", certify)
    monkeypatch.setattr(certificates, "hard_corpus", lambda _: ["a", "b"])
    return proven


def chosen(tokenizer: Tokenizer) -> Certificate:
    """As a new process chooses."""
    choose.cache_clear()
    try:
        return choose(tokenizer, "gigatoken")[1]
    finally:
        choose.cache_clear()


def test_the_second_process_does_not_prove_again(
    cache: Path, proofs: list[str], tokenizer: Tokenizer, certificate: Certificate
) -> None:
    assert chosen(tokenizer) == chosen(tokenizer) == certificate
    assert len(proofs) == len(list(cache.iterdir())) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def other_files(patch: pytest.MonkeyPatch, library: str) -> None:
    kind: Any = type(importlib.metadata.distribution(library))  # its finder's: a backport puts its own before it
    real = kind.read_text

    def read_text(self: importlib.metadata.Distribution, name: str) -> str | None:
        rebuilt = "one.so,sha256=other,1\n" if name == "RECORD" and self.metadata["Name"] == library else ""
        return (real(self, name) or "") + rebuilt

    patch.setattr(kind, "read_text", read_text)


def other_code(patch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes
    patch.setattr(
        Path, "read_bytes", lambda self: real(self) + (b"#" if self.name == Path(certificates.__file__).name else b"")
    )


PREMISES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "gigatoken was rebuilt": lambda patch: other_files(patch, "gigatoken"),
    "tokenizers was rebuilt": lambda patch: other_files(patch, "tokenizers"),
    "another version of gigatoken": lambda patch: patch.setattr(importlib.metadata, "version", lambda _: "99"),
    "our code, which makes the corpus too": other_code,
    "another Python": lambda patch: patch.setattr(platform, "python_version", lambda: "3.99.0"),
    "another machine": lambda patch: patch.setattr(platform, "node", lambda: "elsewhere"),
}


@pytest.mark.parametrize("premise", PREMISES)
def test_whatever_changes_is_proven_anew(
    premise: str, cache: Path, proofs: list[str], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(tokenizer)
    with monkeypatch.context() as patch:
        PREMISES[premise](patch)
        chosen(tokenizer)
        assert len(proofs) == 2
    chosen(tokenizer)
    assert len(proofs) == 2 == len(list(cache.iterdir())), "the first is still believed where it holds"


def test_another_tokenizer_is_proven_anew(cache: Path, proofs: list[str], tokenizer: Tokenizer) -> None:
    chosen(tokenizer)
    chosen(Tokenizer(tokenizer.data + b"\n"))
    assert len(proofs) == 2


def test_another_version_of_the_reference_is_proven_anew(cache: Path, proofs: list[str], tokenizer: Tokenizer) -> None:
    chosen(tokenizer)
    updated = Tokenizer(tokenizer.data)
    updated.__dict__["reference"] = Reference(tokenizer.data)
    updated.reference.version = "99"
    chosen(updated)
    assert len(proofs) == 2


def test_one_flipped_bit_is_proven_anew_and_mended(cache: Path, proofs: list[str], tokenizer: Tokenizer) -> None:
    chosen(tokenizer)
    (record,) = cache.iterdir()
    whole = record.read_bytes()
    backend = tokenizer.backend("gigatoken")
    proof = conformance_cache.proof_of(tokenizer, backend, Path(certificates.__file__))
    assert proof is not None and conformance_cache.kept(proof) is not None
    for place in range(len(whole)):
        record.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert conformance_cache.kept(proof) is None, place
    record.write_bytes(whole[: len(whole) // 2])
    chosen(tokenizer)
    assert len(proofs) == 2 and record.read_bytes() == whole


def test_a_record_under_the_name_of_another_is_not_believed(
    cache: Path, proofs: list[str], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(tokenizer)
    (first,) = cache.iterdir()
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    chosen(tokenizer)
    (second,) = set(cache.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    chosen(tokenizer)
    assert len(proofs) == 3


def test_a_backend_whose_files_nobody_knows_is_proven_every_time(
    cache: Path, proofs: list[str], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gigatoken, "name", "made-at-home")
    assert chosen(tokenizer) == chosen(tokenizer)
    assert len(proofs) == 2 and not cache.exists()


def test_a_folder_that_cannot_be_used_costs_only_the_proof(
    tmp_path: Path, proofs: list[str], tokenizer: Tokenizer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BAMBA_CACHE", str(tmp_path / "file"))
    assert chosen(tokenizer) == certificate
    assert len(proofs) == 1
