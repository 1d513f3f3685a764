"""A small hybrid that looks up phone numbers, and texts to extend its context with: what docs/evaluate.md shows.

    python -m benchmarks.context_extension train OUT        # OUT/short, OUT/answers, OUT/run: some 10 minutes of a core
    python -m benchmarks.context_extension texts OUT        # OUT/long.jsonl: of four times the length, other seeds
    bamba-data model phonebook OUT/run --tokenizer OUT/tokenizer.json --tokens 256 --tokens 1024
    bamba-data model extend OUT/run --to 1024 --text OUT/long.jsonl --rows 16 --evaluations 120 --out OUT/extended …

A row holds documents of many lengths, up to the whole row: a phone book, then questions on its lines with their
answers, in the words of `bamba-data model phonebook`. Three runs, each begins with the one before (`start_from`): the
first two learn answers alone, in short books and then in whole rows, which is how a model so small soon finds out that
they are to be copied; the last learns all, the numbers in the book too, which nobody can foresee.
"""

import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor

from benchmarks.made_rows import MadeRows
from trainer.config import Recipe, load_recipe
from trainer.distributed.fsdp import World, joined
from trainer.phonebook.book import FIRST, LAST, NAMES
from trainer.train import train

RECIPE = Path(__file__).with_suffix(".yaml")
LONG_TOKENS = 1024
ASKS, ANSWERS = "What is the phone number for ", "?\nAnswer:"
ENTRY_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 8, 10, 4  # of the tokenizer below


def tokenizer() -> Tokenizer:
    """Words, the two halves of a question, and digits by two: 8 tokens a line."""
    words = ["<unk>", ASKS, ANSWERS, "\n\n", "\n", ":"]
    words += dict.fromkeys(f"{blank}{name}" for blank in ("", " ") for name in (FIRST + LAST).split())
    words += [*(f" {pair}" for pair in range(20, 100)), *(f"{digit}-" for digit in range(10))]
    words += [f"{pair:02d}" for pair in range(100)]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    pattern = Regex(r"What is the phone number for |\?\nAnswer:|\n\n|\n| ?[A-Za-z]+| \d{2}|\d-|\d{2}|.")
    made.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    return made


def document(tokens: int, drawn: random.Random, book: float | None = None) -> str:
    """A book and questions on different lines of it, `tokens` in all or some fewer. The book is the share `book` of
    them; without it there are as many questions as lines."""
    lines = tokens / (ENTRY_TOKENS + QUESTION_TOKENS) if book is None else book * tokens / ENTRY_TOKENS
    entries = max(2, round(lines))
    names = drawn.sample(NAMES, entries)
    phones = [f"{drawn.randrange(200, 1000)}-{drawn.randrange(10000):04d}" for _ in names]
    questions = min(entries, (tokens - ENTRY_TOKENS * entries) // QUESTION_TOKENS)
    asked = drawn.sample(range(entries), max(questions, 0))
    book = "\n".join(f"{name}: {phone}" for name, phone in zip(names, phones, strict=True))
    return "\n\n".join([book, *(f"{ASKS}{names[at]}{ANSWERS} {phones[at]}" for at in asked)])


class PhoneBooks(MadeRows):
    """Row g is a pure function of g: documents until it is full, the last one cut."""

    def __init__(self, row_tokens: int, batch_rows: int, answers_only: bool, world: World) -> None:
        super().__init__("phone books", batch_rows, world)
        self.row_tokens, self.answers_only = row_tokens, answers_only
        self.tokenizer = tokenizer()
        self.answers = self.tokenizer.token_to_id(ANSWERS)

    def made(self, row: int) -> dict[str, Tensor]:
        drawn = random.Random(f"phone books {row}")
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        documents: list[int] = []
        while (left := self.row_tokens - len(ids)) >= 2:
            whole = 0 if len(ids) else drawn.random()  # every second row is one document
            tokens = left if whole > 0.5 else min(left, round(32 * (self.row_tokens / 32) ** drawn.random()))
            book = None if self.answers_only else drawn.uniform(0.5, 0.95)
            encoded = self.tokenizer.encode(document(tokens, drawn, book)).ids[: left + 1]
            inputs = encoded[:left]
            following = [*encoded[1:], -100][: len(inputs)]
            if self.answers_only:
                answered = [at for at, token in enumerate(inputs) if token == self.answers]
                kept = {at + digit for at in answered for digit in range(ANSWER_TOKENS)}
                following = [label if at in kept else -100 for at, label in enumerate(following)]
            number = documents[-1] + 1 if documents else 0
            ids += inputs
            labels += following
            positions += range(len(inputs))
            documents += [number] * len(inputs)
        short = self.row_tokens - len(ids)
        return {
            "input_ids": torch.tensor(ids + [0] * short),
            "labels": torch.tensor(labels + [-100] * short),
            "position_ids": torch.tensor(positions + [0] * short),
            "seq_idx": torch.tensor(documents + [documents[-1] + 1] * short).int(),
            "row": torch.tensor(row),
            "source": torch.tensor(0),
        }


#: By the name of the run: whether answers alone are learned, and what differs from the file.
RUNS = {
    "short": (True, {"data.row_tokens": 64, "data.batch_rows": 64, "compute.micro_rows": 64, "schedule.steps": 600}),
    "answers": (True, {"schedule.steps": 1500}),
    "run": (False, {"schedule.steps": 1200, "schedule.peak_lr": 2e-3}),
}


def learn(out: Path) -> None:
    """All runs to their ends; what was stopped goes on."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(out / "tokenizer.json"))
    before: list[str] = []
    with joined() as world:
        for run, (answers_only, changed) in RUNS.items():
            changes = [*before, *(f"{name}={value}" for name, value in changed.items())]
            recipe: Recipe = load_recipe(str(RECIPE), changes)
            feed = PhoneBooks(recipe.data.row_tokens, recipe.data.batch_rows, answers_only, world)
            train(recipe, feed, world, str(out / run), out / run, accept_changes=False)
            before = [f"start_from={out / run}"]


def write_texts(out: Path) -> None:
    """Documents that no row of training holds, of four times its length. What is cut off of one is of its questions."""
    drawn = random.Random("texts long")
    lines = [json.dumps({"text": document(round(1.2 * LONG_TOKENS), drawn, 0.7)}) + "\n" for _ in range(32)]
    (out / "long.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    verb, folder = sys.argv[1:]
    {"train": learn, "texts": write_texts}[verb](Path(folder))
