"""Rows of long texts to judge an extension on, all of one length; where texts are given, each within one of them.

rows = rows_of_texts(files, tokenizer, tokens=16384, most=8, say)    # .jsonl: a document a line, in `text`
rows = held_out_rows(saved, urls, tokens=16384, own=4096, most=8, say)
"""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from bamba.loader import Reading, build_loader
from bamba.loader.order.plan import loads
from bamba_data.canonical_json import dumps
from bamba_data.errors import UserError, one_line
from bamba_data.records import SEAL

from ..checkpoint.reader import SavedCheckpoint
from ..positions import contexts

Say = Callable[[str], None]
Row = dict[str, Tensor]  # as the loader's batches, of one row
LOOKED_THROUGH = 4096  # rows of the held-out part, in search of long documents


def documents_of(file: Path) -> list[str]:
    """The texts of a file; `UserError` where it is not UTF-8, or a line of a .jsonl holds no text."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start:,})") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    if file.suffix != ".jsonl":
        return [text]
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}, line {number}: no JSON object with a text ({one_line(error)})") from None
        if not isinstance(value, str):
            raise UserError(f"{file}, line {number}: text is {type(value).__name__}, not a string")
        found.append(value)
    return found


def rows_of_texts(files: Sequence[Path], tokenizer: Tokenizer, tokens: int, most: int, say: Say) -> list[Row]:
    """At most `most` rows of `tokens` targets: of each document its first row, then of each its second, and so on.

    What is shorter than a row is left out, and told. `UserError` where nothing is as long.
    """
    texts = [text for file in files for text in documents_of(file)]
    encoded = [tokenizer.encode(text).ids for text in texts]
    rows = [(len(ids) - 1) // tokens for ids in encoded]
    if not any(rows):
        longest = max(map(len, encoded), default=0)
        raise UserError(f"no text has more than {tokens:,} tokens, the longest {longest:,}: give longer ones (--text)")
    if short := rows.count(0):
        say(f"{short} of {len(texts)} texts are shorter than {tokens:,} tokens: left out")
    places = sorted((row, number) for number, count in enumerate(rows) for row in range(count))
    return [_row(encoded[number][row * tokens : (row + 1) * tokens + 1]) for row, number in places[:most]]


def _row(ids: Sequence[int]) -> Row:
    """One document of which each token but the first is a target."""
    count = len(ids) - 1
    return {
        "input_ids": torch.tensor(ids[:-1])[None],
        "labels": torch.tensor(ids[1:])[None],
        "position_ids": torch.arange(count)[None],
        "seq_idx": torch.zeros(1, count, dtype=torch.int32),
        "row": torch.tensor([0]),
        "source": torch.tensor([0]),
    }


def held_out_rows(saved: SavedCheckpoint, data: Sequence[str], tokens: int, own: int, most: int, say: Say) -> list[Row]:
    """At most `most` rows of the held-out documents of a run, packed to `tokens`, in which some target has more than
    `own` tokens of its document before it. `UserError` where none is among the first `LOOKED_THROUGH`."""
    if "plan" not in saved.commit.get("feed", {}):
        raise UserError(f"{saved.name} was not trained on a dataset of ours: give texts instead (--text)")
    plan = saved.commit["feed"]["plan"]
    header = {**plan["header"], "row_tokens": tokens}
    unsealed = {name: value for name, value in plan.items() if name != SEAL}
    made = loads(dumps({**unsealed, "header": header}), "the plan in the checkpoint, with longer rows")
    loader = build_loader(list(data), reading=Reading(num_workers=0), plan=made, split="holdout")
    batches = -(-LOOKED_THROUGH // made.mixes[-1].batch_rows)
    found: list[Row] = []
    seen = 0
    for batch in islice(loader, batches):
        long = ((contexts(batch["seq_idx"]) > own) & (batch["labels"] >= 0)).any(1)
        for at in range(len(long)):
            seen += int(batch["row"][at]) >= 0
            if long[at]:
                row = {name: batch[name][at : at + 1] for name in _row([0, 0])}
                found.append({**row, "source": torch.tensor([0])})
            if len(found) == most:
                return found
    if not found:
        raise UserError(
            f"in {seen:,} rows of held-out documents none goes beyond {own:,} tokens: give longer texts (--text)"
        )
    say(f"{len(found)} of {seen:,} rows of held-out documents go beyond {own:,} tokens")
    return found
