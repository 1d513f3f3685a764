"""PhoneBook: prompts are what the study describes, the same for a seed, and right is what greedy writing gives."""

import csv
import json
import re
from pathlib import Path

import pytest

from bamba_data.errors import UserError
from tests.trainer.small import CONFIG, model, saved
from tests.trainer.vocabularies import a_tokenizer
from trainer.decode.sampling import likeliest
from trainer.decode.writing import written as written_by
from trainer.gguf import pretokenizers
from trainer.model.config import ModelConfig
from trainer.phonebook.book import NAMES, Question, question
from trainer.phonebook.measure import Cell, draw_heat_map, entries_that_fit, measure, table, write_csv
from trainer.tasks.scoring import Continuation, score


def lines_of(one: Question) -> dict[str, str]:
    return dict(re.findall(r"^(.+): (\d{3}-\d{4})$", one.prompt.split("\n\nWhat is")[0], re.MULTILINE))


@pytest.mark.parametrize("form", ["standard", "reversed"])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_answer_is_the_line_at_its_depth(form: str, depth: float) -> None:
    one = question(form, 60, depth, 2, 7, 0)
    book = lines_of(one)
    assert len(book) == 60, "a name stands twice"
    *shots, asked = re.findall(r"phone number for (.+)\?\nAnswer:(.*)", one.prompt)
    assert one.prompt.endswith(f"What is the phone number for {asked[0]}?\nAnswer:")
    assert one.answer == f" {book[asked[0]]}"
    assert list(book).index(asked[0]) == round(depth * 59)
    assert [answer for _, answer in shots] == [f" {book[name]}" for name, _ in shots]
    assert len({asked[0], *(name for name, _ in shots)}) == 3
    places = sorted(list(book).index(name) for name, _ in shots)
    assert 10 <= places[0] <= 20 and 40 <= places[1] <= 50, "the shots are spread evenly"
    assert one.prompt.startswith(f"I will ask you for the phone number of {asked[0]}") == (form == "reversed")


def test_a_seed_always_makes_the_same_book_and_another_seed_another() -> None:
    one = question("standard", 3, 0.5, 1, 7, 0)
    assert one == question("standard", 3, 0.5, 1, 7, 0)
    assert one.prompt != question("standard", 3, 0.5, 1, 8, 0).prompt
    assert one.prompt != question("standard", 3, 0.5, 1, 7, 1).prompt


def test_there_are_more_than_three_thousand_names_each_once() -> None:
    assert len(set(NAMES)) == len(NAMES) > 3000


def test_what_no_book_can_be_is_refused() -> None:
    with pytest.raises(UserError, match="no line left to ask for after 2 shots"):
        question("standard", 2, 0.0, 2, 1, 0)
    with pytest.raises(UserError, match="names"):
        question("standard", len(NAMES) + 1, 0.0, 2, 1, 0)
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values()))).tokenizer
    with pytest.raises(UserError, match="20 tokens hold no phone book"):
        entries_that_fit(tokenizer, "standard", 20, 2, 1)


def test_as_many_entries_as_fit() -> None:
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values()))).tokenizer
    entries = entries_that_fit(tokenizer, "standard", 600, 2, 1)
    lengths = []
    for count in (entries, entries + 1):
        one = question("standard", count, 0.0, 2, 1, 0)
        lengths.append(len(tokenizer.encode(one.prompt + one.answer).ids))
    assert lengths[0] <= 600 < lengths[1]


def test_right_is_what_greedy_generation_writes() -> None:
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values()))).tokenizer
    ours = model(config=ModelConfig.model_validate({**CONFIG.model_dump(), "vocab_size": 512}))
    one = question("standard", 20, 0.5, 2, 1, 0)
    prompt = tokenizer.encode(one.prompt).ids
    answer = tokenizer.encode(one.prompt + one.answer).ids[len(prompt) :]
    written = [token for (token,) in written_by(ours, [prompt], len(answer), likeliest)]
    asked = [Continuation(prompt, written), Continuation(prompt, answer)]
    assert [found.is_greedy for found in score(ours, asked, 4096, 2)] == [True, written == answer]
    (cell,) = measure(ours, tokenizer, "standard", [900], [0.5], 2, 3, 1)
    assert (cell.right, cell.trials) == (0, 3), "a model that has learnt nothing finds nothing"


def test_a_table_a_file_and_a_picture(tmp_path: Path) -> None:
    cells = [Cell("standard", 512, 30, depth, right, 4) for depth, right in [(0.0, 1), (1.0, 4)]]
    assert table(cells).splitlines() == ["tokens  entries     0%   100%", "   512       30   25.0  100.0"]
    write_csv(cells, tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        assert [row["right"] for row in csv.DictReader(file)] == ["1", "4"]
    draw_heat_map(cells, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bamba.pipelines.cli import app
    from bamba_data import exit_codes

    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values())))
    saved(tmp_path / "run", model(config=ModelConfig.model_validate({**CONFIG.model_dump(), "vocab_size": 512})))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.data)
    command = f"model phonebook {tmp_path}/run --tokenizer {tmp_path}/tokenizer.json --tokens 600 --depth 0.5 --json"
    assert exit_codes.run(app, [*command.split(), "--trials", "2"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)
    assert (cell["tokens"], cell["depth"], cell["trials"]) == (600, 0.5, 2) and cell["entries"] > 2
