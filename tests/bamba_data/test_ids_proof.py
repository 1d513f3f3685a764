"""`verify --full` proves ids whose decoding loses text by the upstream text, or says that it cannot."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from bamba_data.cli import app
from bamba_data.inspect import ids_proof
from bamba_data.inspect.verify import verify
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.round_trip import lost_text, same_again
from bamba_data.tokenization.tokenizer import Tokenizer
from tests.building import build
from tests.corpora import TOKENIZER, lines, recipe, records, texts, write_jsonl
from tests.forging import Forger
from tests.sharing import made_once

SNOW = "Señor \u2603 don't like snow, do n't you know. "  # an unknown character, an accent, a rule of English


def word_piece() -> bytes:
    """A real one, trained on the demo's texts: lower case, without accents, with `[UNK]`."""
    trained = tokenizers.BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator([text[:4000] for text in texts()[:40]], vocab_size=800, show_progress=False)
    return str(trained._tokenizer.to_str()).encode()


def make(folder: Path, certificate: Certificate) -> None:
    """A dataset of two shards by that tokenizer, with a certificate that says what those of before said."""
    for number in range(2):
        rows = [{**row, "text": SNOW + row["text"]} for row in records(4, 4 * number, text_chars=300)]
        write_jsonl(folder / f"inputs/{number}.json.gz", lines(rows))
    (folder / "words.json").write_bytes(word_piece())
    path = recipe(folder, extra="unit_bytes: 1")
    path.write_text(path.read_text().replace(f"package:{TOKENIZER.name}", "words.json"))
    by = dataclasses.replace(certificate, backend="tokenizers", round_trips=True)
    build(folder / "out", by, str(path), ["tokenizer.backend=tokenizers"])


@pytest.fixture(scope="session")
def lossy(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read only."""
    return made_once(tmp_path_factory, "lossy", lambda folder: make(folder, certificate))


@pytest.fixture
def copied(lossy: Path, tmp_path: Path) -> Path:
    """Its upstream is that of `lossy`."""
    return Path(shutil.copytree(lossy / "out", tmp_path / "out"))


def test_the_tokenizer_loses_text_and_ours_does_not(tokenizer: Tokenizer) -> None:
    words = Tokenizer(word_piece())
    assert lost_text(words) is not None and lost_text(tokenizer) is None
    ids = words.reference.encode([SNOW]).ids.tolist()
    assert words.decode(ids) != SNOW and not same_again(words, ids)
    assert same_again(tokenizer, tokenizer.reference.encode([SNOW]).ids.tolist())


def test_its_ids_are_proven_by_the_upstream_texts(lossy: Path) -> None:
    report = verify(str(lossy / "out"), full=True)
    assert report.faults == [] and report.unproven == {}
    assert report.reencoded == report.from_upstream == report.shards == 2


def test_what_upstream_does_not_tell_is_not_proven_and_no_fault(
    tmp_path: Path, certificate: Certificate, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, certificate)
    shutil.rmtree(tmp_path / "inputs")
    app(["verify", str(tmp_path / "out"), "--full"], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "SOUND" in said and "0 documents encoded again" in said
    assert "not proven: the ids of 2 sampled documents: decoding loses text" in said and "cannot be read" in said


def test_wrong_ids_of_such_a_tokenizer_are_a_fault(copied: Path) -> None:
    def shuffle_first(table: pa.Table) -> pa.Table:
        ids = [np.frombuffer(tokens, "<u2").copy() for tokens in table["tokens"].to_pylist()]
        np.random.default_rng(0).shuffle(ids[0])
        return table.set_column(0, table.schema.field(0), pa.array([one.tobytes() for one in ids], pa.binary()))

    forger = Forger(copied)
    forger.rewrite_shard(0, shuffle_first)
    forger.save()
    (fault,) = verify(str(copied), full=True).faults
    assert "the upstream text of its first document gives other ids" in fault.detail


def test_no_more_upstream_texts_are_read_than_is_said(lossy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_proof, "UPSTREAM_DOCUMENTS", 1)
    report = verify(str(lossy / "out"), full=True)
    assert (report.from_upstream, list(report.unproven.values())) == (1, [1])
    assert "1 upstream texts a source are read again, no more" in next(iter(report.unproven))
