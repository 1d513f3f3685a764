"""How often a model finds the line: by length of the book and depth in it, greedy and exact.

An answer is right if each of its tokens is the likeliest one after those before it, which is the same as that greedy
generation writes it: one pass through the model for each question, no token at a time.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bamba_data.errors import UserError

from .book import NAMES, Form, question

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..model.bamba import Bamba

ROW_TOKENS = 8192  # of one packed row


@dataclass(frozen=True, slots=True)
class Cell:
    """`tokens`: the length that was asked for; `entries`: lines of the book that fill it; `right` of `trials`."""

    form: Form
    tokens: int
    entries: int
    depth: float
    right: int
    trials: int


def entries_that_fit(tokenizer: "Tokenizer", form: Form, tokens: int, shots: int, seed: int) -> int:
    """The most entries of which a whole prompt with its answer is at most `tokens` long. `UserError` for none."""

    def fits(entries: int) -> bool:
        one = question(form, entries, 0.0, shots, seed, 0)
        return len(tokenizer.encode(one.prompt + one.answer).ids) <= tokens

    low, high = shots, len(NAMES)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low == shots:
        raise UserError(f"{tokens:,} tokens hold no phone book with {shots} shots: ask for more --tokens")
    return low


def measure(
    model: "Bamba",
    tokenizer: "Tokenizer",
    form: Form,
    lengths: Sequence[int],
    depths: Sequence[float],
    shots: int,
    trials: int,
    seed: int,
) -> list[Cell]:
    """A cell for each length and depth.

    Args:
        lengths: Of the whole prompt, in tokens; each is filled with as many entries as fit into it, by one prompt's
            count: another trial's may be some tokens longer.
        trials: Books of each cell.
    """
    from ..tasks.scoring import Continuation, score

    cells = []
    for tokens in lengths:
        entries = entries_that_fit(tokenizer, form, tokens, shots, seed)
        for depth in depths:
            asked = []
            for trial in range(trials):
                one = question(form, entries, depth, shots, seed, trial)
                whole = tokenizer.encode(one.prompt + one.answer).ids
                prompt = tokenizer.encode(one.prompt).ids
                if whole[: len(prompt)] != prompt:
                    raise UserError("the tokenizer joins the question with its answer: it cannot be asked this way")
                asked.append(Continuation(prompt, whole[len(prompt) :]))
            right = sum(found.is_greedy for found in score(model, asked, max(ROW_TOKENS, tokens), trials))
            cells.append(Cell(form, tokens, entries, depth, right, trials))
    return cells


def table(cells: Sequence[Cell]) -> str:
    """Per cent right: a line for each length, a column for each depth."""
    depths = sorted({cell.depth for cell in cells})
    lines = ["tokens  entries" + "".join(f"{depth:>7.0%}" for depth in depths)]
    for tokens in sorted({cell.tokens for cell in cells}):
        row = {cell.depth: cell for cell in cells if cell.tokens == tokens}
        shares = "".join(f"{100 * row[depth].right / row[depth].trials:7.1f}" for depth in depths)
        lines.append(f"{tokens:>6,}  {row[depths[0]].entries:>7,}{shares}")
    return "\n".join(lines)


def write_csv(cells: Sequence[Cell], file: Path) -> None:
    """The cells, a line each."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        written = csv.writer(opened)
        written.writerow(Cell.__slots__)
        written.writerows([getattr(cell, name) for name in Cell.__slots__] for cell in cells)


def draw_heat_map(cells: Sequence[Cell], picture: Path) -> None:
    """Length across, depth down, colour for the share that is right; the format is what the name says."""
    from matplotlib.figure import Figure

    lengths, depths = sorted({cell.tokens for cell in cells}), sorted({cell.depth for cell in cells})
    share = {(cell.tokens, cell.depth): cell.right / cell.trials for cell in cells}
    figure = Figure(figsize=(max(4.5, 1.6 + 0.8 * len(lengths)), 1.4 + 0.5 * len(depths)), layout="constrained")
    axes: Any = figure.subplots()
    values = [[share[tokens, depth] for tokens in lengths] for depth in depths]
    image = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(range(len(lengths)), [f"{tokens:,}" for tokens in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xlabel("prompt, tokens")
    axes.set_ylabel("depth of the line")
    axes.set_title(f"PhoneBook, {cells[0].form}: share right", fontsize=10)
    figure.colorbar(image)
    figure.savefig(picture, dpi=120)
