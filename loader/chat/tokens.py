"""Conversations as ids, with those marked that are not to be learned; and the account of what was left out.

The text of a whole conversation is encoded at once, as it will be when somebody talks to the model; a token is the
assistant's where its first character is. Special tokens in the template's text become their ids; in what people wrote
they are refused, since nothing would tell them from the template's own.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from bamba_data.errors import UserError
from bamba_data.tokenization.delimiters import special_tokens
from bamba_data.tokenization.tokenizer import Tokenizer

from ..packing.document_transforms import NO_TARGET
from .files import BadConversation, ConversationFile, Row, messages_of, rows_of
from .spec import ConversationSource
from .template import ChatTemplate, Rendered

BATCH = 256  # conversations that are encoded at once


class Conversations(NamedTuple):
    """`ids` of all kept ones end to end, uint32, NO_TARGET set where nothing is to be learned; `counts` of each."""

    ids: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    account: "Account"


@dataclass
class Account:
    """How many conversations were kept, were too long (left out or cut), and were bad, by reason."""

    kept: int = 0
    too_long: int = 0
    cut: int = 0
    bad: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def words(self) -> str:
        """For a person: what was kept, and what was not."""
        parts = [f"{self.kept:,} conversations"]
        parts += [f"{self.too_long:,} longer than a row left out"] if self.too_long else []
        parts += [f"{self.cut:,} longer than a row cut"] if self.cut else []
        parts += [f"{count:,} left out: {reason}" for reason, count in sorted(self.bad.items())]
        return "; ".join(parts)


def encoder(data: bytes) -> tokenizers.Tokenizer:
    """Of a tokenizer.json, for rendered text: special tokens are found in it, and offsets are those of the text."""
    hf = tokenizers.Tokenizer.from_buffer(data)
    hf.no_truncation()
    hf.no_padding()
    # The usual post-processor moves the begin of a token behind its blanks; ids do not depend on it.
    hf.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    return hf


def tokenized(
    files: Sequence[ConversationFile], source: ConversationSource, tokenizer: Tokenizer, template: ChatTemplate
) -> Conversations:
    """All conversations of the files, in their order.

    Raises:
        UserError: A bad conversation, or one that is too long, where the source says to refuse it; a file of another
            form; nothing is left.
    """
    made = _Maker(source, encoder(tokenizer.data), template, tuple(special_tokens(tokenizer.data)))
    batch: list[tuple[Row, Rendered]] = []
    for row in (row for file in files for row in rows_of(file)):
        try:
            batch.append((row, made.rendered(row)))
        except BadConversation as error:
            made.leave_out(row, str(error))
        if len(batch) >= BATCH:
            made.encode(batch)
            batch = []
    made.encode(batch)
    if not made.ids:
        raise UserError(f"conversations {', '.join(source.files)}: none can be learned: {made.account.words}")
    made.account.bad = dict(made.reasons)
    counts = np.array([len(ids) for ids in made.ids], np.uint32)
    return Conversations(np.concatenate(made.ids), counts, made.account)


class _Maker:
    def __init__(
        self, source: ConversationSource, hf: tokenizers.Tokenizer, template: ChatTemplate, special: tuple[str, ...]
    ) -> None:
        self.source, self.hf, self.template, self.special = source, hf, template, special
        self.ids: list[NDArray[np.uint32]] = []
        self.account = Account()
        self.reasons: Counter[str] = Counter()

    def rendered(self, row: Row) -> Rendered:
        messages, tools = messages_of(row, self.source)
        if not any(message["role"] == "assistant" for message in messages):
            raise BadConversation("has nothing that an assistant says")
        for number, message in enumerate(messages):
            for token in self.special:
                if token in message["content"]:
                    raise BadConversation(f"message {number} has the text of the special token {token}")
        return self.template.render(messages, tools)

    def leave_out(self, row: Row, why: str) -> None:
        if self.source.bad == "refuse":
            raise UserError(f"{row.place}: {why}. Mend or remove it, or leave such ones out: `bad: leave_out`")
        self.reasons[_without_numbers(why)] += 1

    def encode(self, batch: Sequence[tuple[Row, Rendered]]) -> None:
        texts = [rendered.text for _, rendered in batch]
        encoded = self.hf.encode_batch(texts, add_special_tokens=False)
        for (row, rendered), one in zip(batch, encoded, strict=True):
            marked = _marked(one, rendered.spans)
            limit = self.source.max_tokens
            if limit is not None and len(marked) > limit:
                if self.source.too_long == "refuse":
                    raise UserError(
                        f"{row.place}: {len(marked):,} tokens, longer than a row of {limit:,}: make rows longer, or "
                        "say `too_long: leave_out` or `cut`"
                    )
                kept = marked[:limit] if self.source.too_long == "cut" else marked[:0]
                if not _has_targets(kept):
                    self.account.too_long += 1
                    continue
                marked = kept
                self.account.cut += 1
            elif not _has_targets(marked):
                self.leave_out(row, "the assistant says nothing that has a token")
                continue
            self.ids.append(marked)
            self.account.kept += 1


def _marked(encoded: Any, spans: Sequence[tuple[int, int]]) -> NDArray[np.uint32]:
    ids = np.array(encoded.ids, np.uint32)
    begins = np.array([begin for begin, _ in encoded.offsets], np.int64)
    edges = np.array([edge for span in spans for edge in span], np.int64)
    is_learned = edges.searchsorted(begins, side="right") % 2 == 1
    ids[~is_learned] |= NO_TARGET
    return ids


def _has_targets(marked: NDArray[np.uint32]) -> bool:
    """The first token of a document is no label of any other."""
    return bool((marked[1:] < NO_TARGET).any())


def _without_numbers(why: str) -> str:
    """So that one reason is one line of the account, whichever message it is about."""
    words: Iterator[str] = ("…" if word.isdigit() else word for word in why.split())
    return " ".join(words)
