"""Paragraphs are found by their bytes, and words are counted as Unicode cuts them."""

import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from bamba_data.clean.contaminated import Contaminated, OfTask, contaminated_job, scan, write_list
from bamba_data.clean.evaluation_texts import EvaluationText
from bamba_data.clean.paragraphs import counts, paragraph_index, words_in
from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.decode import token_bytes
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.cli import app, run
from tests.clean.planting import dataset_of_texts
from tests.corpora import TOKENIZER, texts, write_jsonl

ASKED = "Which of these four ships, in the year 1851, was the first to see the white whale?"
ANSWER = "It was seen by nobody, for there never was such a whale, 他们说, in all the seas."
#: Texts of an evaluation: two paragraphs that count, and what does not.
QUESTION = EvaluationText("whales", f"{ASKED}\nThe Pequod.\n{'-' * 40}\n{ANSWER}")


def prose(number: int) -> str:
    return texts()[number][:300].replace("\n", " ")


def found(url: Path, folder: Path, asked: list[EvaluationText]) -> tuple[Contaminated, list[tuple[str, str, int]]]:
    job = contaminated_job(open_dataset(url), asked, str(folder / "work"), rule="olmo", group_tokens=1)
    for group in reversed(range(len(job.groups))):
        scan(job, group)
    out = folder / "list.parquet"
    out.unlink(missing_ok=True)
    report = write_list(job, out)
    return report, sorted(read_list(out).entries.rows()) if out.exists() else []


def test_documents_with_a_whole_paragraph_are_found_and_none_else(tmp_path: Path, certificate: Certificate) -> None:
    planted = {
        "web": [
            [
                prose(0),
                f"{prose(1)}\n{ASKED}\n{prose(2)}",  # found
                f"{prose(3)} {ASKED}",  # within a paragraph
                f"{prose(4)}\nThe Pequod.\n{'-' * 40}",  # too short, and of marks
            ],
            [f"{ANSWER}", f"{ASKED.upper()}", f"{ASKED} "],  # found; other letters; a blank more
        ],
        "books": [[f"{ANSWER}\n{ASKED}", *[f"{prose(n)}\n{ASKED}" for n in range(5, 20)]]],  # more than ten: no phrase
    }
    url = dataset_of_texts(tmp_path, certificate, planted)
    short = EvaluationText("short", "Who was it?\nA whale.")
    report, listed = found(url, tmp_path, [QUESTION, short])
    books = [("books", "0.jsonl", row) for row in range(16)]
    assert listed == [*books, ("web", "0.jsonl", 1), ("web", "1.jsonl", 0)]
    assert report.by_source == {"books": 16, "web": 2}
    assert report.by_task == {"whales": OfTask(1, 0, 1, 0, 18), "short": OfTask(1, 1, 0, 0, 0)}
    made = drop(str(url), read_list(tmp_path / "list.parquet"))
    assert made is not None and made.documents == 18
    assert found(url, tmp_path, [QUESTION])[1] == []


def test_the_command_takes_the_rule_and_refuses_what_is_of_the_other_one(
    tmp_path: Path, certificate: Certificate, capsys: pytest.CaptureFixture[str]
) -> None:
    url = dataset_of_texts(tmp_path, certificate, {"web": [[prose(0), f"{prose(1)}\n{ASKED}"]]})
    write_jsonl(tmp_path / "asked.jsonl", [QUESTION._asdict()])
    command = [
        "contaminated",
        str(url),
        "--against",
        str(tmp_path / "asked.jsonl"),
        "--out",
        str(tmp_path / "l.parquet"),
    ]
    assert run(app, [*command, "--rule", "olmo", "--common-documents", "5"]) == 2
    assert "--common-documents is of the rule of GPT-3" in capsys.readouterr().err
    assert run(app, [*command, "--rule", "olmo2"]) == 2
    assert "--rule olmo2: it can be gpt3, olmo" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 1 texts has a paragraph of 13 words"):
        found(url, tmp_path, [EvaluationText("short", "Who was it?")])


@pytest.mark.ray
@pytest.mark.slow
def test_the_job_lists_by_the_rule_of_olmo(tmp_path: Path, certificate: Certificate) -> None:
    url = dataset_of_texts(tmp_path, certificate, {"web": [[prose(0), f"{prose(1)}\n{ASKED}"]]})
    write_jsonl(tmp_path / "asked.jsonl", [QUESTION._asdict()])
    out = tmp_path / "l.parquet"
    command = ["contaminated", str(url), "--against", str(tmp_path / "asked.jsonl"), "--out", str(out)]
    assert run(app, [*command, "--rule", "olmo"]) == 0
    assert read_list(out).entries.rows() == [("web", "0.jsonl", 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("You can follow any responses to this entry through the RSS 2.0 feed", 13),
        ("can't won't e.g. 1,000.5 a-b foo_bar 3.14.15", 10),
        ("中文字符测试一二三", 9),
        ("ひらがな カタカナ 漢字", 7),
        ("สวัสดีครับ", 7),
        ("नमस्ते दुनिया", 2),
        ("!!! ??? ... 🚀🚀", 11),
        ("Ünïcödé naïve cafe\u0301 l'eau", 4),
        ("http://example.com/a?b=c", 11),
        ("A.B.C. and U.S.A.", 5),
        ("Привет, мир", 3),
        ("a  b\tc\u00a0d", 4),
        ("", 0),
    ],
)
def test_words_and_marks_are_those_of_annex_29(text: str, words: int) -> None:
    """As the word boundaries of the package `regex` cut them, without blanks."""
    assert words_in(text) == words


def test_a_paragraph_counts_from_thirteen_words_on_if_it_has_a_letter_or_a_digit() -> None:
    assert counts("a " * 13) and not counts("a " * 12)
    assert not counts("- " * 40) and counts("- " * 12 + "1")


def test_each_paragraph_is_held_once_with_the_texts_that_have_it() -> None:
    one, two = (" ".join(f"{word}{n}" for n in range(13)).encode() for word in "ab")
    index = paragraph_index([one + b"\n" + two, b"short", two + b"\n" + two])
    assert index.paragraphs == (one, two)
    assert [index.texts_of_places[a:b].tolist() for a, b in zip(index.starts, index.starts[1:], strict=False)] == [
        [0],
        [0, 2],
    ]
    ids = np.frombuffer(b"x\n" + one + two + two + b"\n" + one, np.uint8)
    lengths = np.array([2 + len(one), len(two), len(two) + 1 + len(one)])
    documents, places = index.finder(bytes)(ids, lengths)
    assert list(zip(documents.tolist(), places.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 0), (2, 1)]


def test_bytes_of_ids_are_the_text_that_the_tokenizer_decodes() -> None:
    tokenizer = Tokenizer(TOKENIZER.read_bytes())
    decode = token_bytes(tokenizer)
    hard = [
        "Ünïcödé 🚀👩‍👩‍👧 नमस्ते\u00a0\u3000x",
        "\r\n\t \x00\x7f",
        "<|endoftext|>",
        *(texts()[n][:400] for n in range(20)),
    ]
    for encoded in tokenizer.reference.hf.encode_batch(hard):
        assert decode(encoded.ids).decode() == tokenizer.decode(encoded.ids)
    drawn = random.Random(1).choices(range(tokenizer.vocab_size), k=500)
    assert decode(drawn).decode("utf-8", "replace") == tokenizer.decode(drawn)


def test_a_vocabulary_that_is_not_of_bytes_is_decoded_by_its_tokenizer() -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer = Tokenizer(made.to_str().encode())
    assert token_bytes(tokenizer)([0, 1, 0]) == b"a b a"
