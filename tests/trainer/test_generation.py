"""`bamba-data model generate`: a text as it comes, and files of prompts, by real processes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bamba_data import exit_codes
from bamba_data.errors import UserError
from tests.corpora import TOKENIZER
from tests.running import COMMAND
from tests.trainer.small import CONFIG, model, saved
from trainer.decode.sampling import Sampling
from trainer.generate import app
from trainer.generation import Writer, prompts_of

PROMPTS: list[dict[str, Any]] = [
    {"prompt": "Call me", "id": "a"},
    {"prompt": "It is a truth universally acknowledged, that", "seed": 5, "id": 2},
    {"prompt": "Call me"},
    {"prompt": "Ça va — 好 😀"},
    {"prompt": "x"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt nothing writes any tokens at all, bytes of characters among them."""
    folder = tmp_path_factory.mktemp("generation") / "run"
    saved(folder, model(config=CONFIG.model_copy(update={"vocab_size": 50_304})), row_tokens=48)
    return folder


def file_of(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


Answers = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def answers(run: Path, capsys: pytest.CaptureFixture[str]) -> Answers:
    """What the command prints for a file of prompts."""

    def asked(file: Path, *words: object) -> list[dict[str, Any]]:
        given = ["--tokenizer", TOKENIZER, "--prompts", file, "--tokens", 6, *words]
        code = exit_codes.run(app, [str(run), *map(str, given)])
        said = capsys.readouterr()
        assert code == 0, said.err
        return [json.loads(line) for line in said.out.splitlines()]

    return asked


def test_a_file_of_prompts_is_answered_in_its_order(answers: Answers, tmp_path: Path) -> None:
    found = answers(file_of(tmp_path / "prompts.jsonl", PROMPTS), "--seed", 3)
    assert [one["prompt"] for one in found] == [one["prompt"] for one in PROMPTS]
    assert [one.get("id") for one in found] == ["a", 2, None, None, None]
    assert [one["seed"] for one in found] == [3, 5, 3, 3, 3]
    assert all(one["why"] == "tokens" and one["tokens"] == 6 for one in found)
    assert found[0]["text"] == found[2]["text"] != found[4]["text"], "the same seed, the same text"
    turned = file_of(tmp_path / "turned.jsonl", PROMPTS[::-1])
    assert answers(turned, "--seed", 3, "--batch", 2, "--out", tmp_path / "out.jsonl") == []
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == found[::-1]
    stop = found[1]["text"][2:4]
    (one,) = answers(file_of(tmp_path / "one.jsonl", PROMPTS[1:2]), "--stop", stop)
    assert one["why"] == "stop" and one["text"] == found[1]["text"].partition(stop)[0]


def test_one_prompt_shown_piece_by_piece_is_the_answer_of_the_file(run: Path, answers: Answers, tmp_path: Path) -> None:
    shown: list[str] = []
    one = Writer.of(str(run), TOKENIZER, Sampling(0.8, 50), 6, []).stream("Call me", 3, shown.append)
    (line,) = answers(file_of(tmp_path / "one.jsonl", PROMPTS[:1]), "--seed", 3)
    assert (one.text, one.why) == (line["text"], "tokens")
    assert "".join(shown) == "Call me" + one.text and len(shown) > 2


@pytest.mark.process
def test_a_text_is_shown_before_it_ends(run: Path) -> None:
    command = [*COMMAND, "model", "generate", str(run), "--tokenizer", str(TOKENIZER), "--prompt", "Call me"]
    with subprocess.Popen([*command, "--tokens", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(60)) == 60  # of a text that would take days
        process.terminate()
        assert b"are beyond the 48 that the model was trained on" in process.stderr.read()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: no JSON"),
        ('"text"', 'no object with a text as "prompt"'),
        ('{"prompt": ""}', 'no object with a text as "prompt"'),
        ('{"prompt": "\\ud83d"}', 'no object with a text as "prompt"'),
        ('{"prompt": "a", "tokens": 3}', "line 2 says tokens: known are prompt, seed, id"),
        ('{"prompt": "a", "seed": -1}', "seed is -1"),
        ('{"prompt": "a", "seed": true}', "seed is True"),
        ('{"prompt": "a", "id": [1]}', "id is [1]"),
    ],
)
def test_a_line_that_is_no_prompt_is_refused_before_anything_is_loaded(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a\u2028b"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError) as refused:
        prompts_of(file, 1)
    assert said in str(refused.value) and str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either --prompt or --prompts"),
        (["--prompt", "a", "--prompts", "b"], "give either --prompt or --prompts"),
        (["--prompt", "a", "--batch", "2"], "--batch is of a file of prompts"),
        (["--prompt", "a", "--out", "x"], "--out is of a file of prompts"),
        (["--prompts", "/nowhere"], "/nowhere: cannot be read"),
        (["--prompt", "a", "--top-p", "0"], "top_p is 0.0"),
        (["--prompt", "a", "--stop", ""], "a stop string is empty"),
    ],
)
def test_words_that_contradict_each_other_are_refused(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_codes.run(app, [str(run), "--tokenizer", str(TOKENIZER), *words]) == 2
    assert said in capsys.readouterr().err


def test_an_empty_file_of_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no prompt"):
        prompts_of(tmp_path / "none.jsonl", 1)
