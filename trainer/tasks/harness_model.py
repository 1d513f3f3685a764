"""A checkpoint of ours as a model of lm-evaluation-harness: what its tasks ask, answered by the trainer's own model.

    model = CheckpointModel(saved, tokenizer, batch=32)
    lm_eval.simple_evaluate(model, tasks=["arc_easy"])

Texts become tokens, and long ones are cut, as in the harness's backend for transformers, so that both give the same
numbers. This module imports lm_eval: ask `require("lm_eval")` before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bamba_data.errors import UserError

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer
from ..decode.sampling import likeliest
from ..decode.text import Text, Until
from ..decode.texts import write
from ..hf.export import max_position_of
from .scoring import Continuation, score

#: What a task may say of a text to generate, beside `until` and the number of tokens; another word is refused.
GENERATION = {"do_sample", "temperature", "max_gen_toks", "max_new_tokens", "max_tokens", "until"}
NEW_TOKENS = 256  # of a task that names no number, as in the harness
ROW_TOKENS = 8192  # of one packed row: the mask of attention grows with its square


class CheckpointModel(TemplateLM):  # type: ignore[misc]
    """Args:
    tokenizer: Its `eos`, or `bos` where there is one, stands before a text that has nothing before it.
    batch: So many sequences at once, if they are short enough.
    device: A GPU if there is one. There matrices are in bfloat16, on a CPU in float32.

    Raises UserError where the tokenizer names no token that begins or ends a text.
    """

    def __init__(
        self, saved: SavedCheckpoint, tokenizer: RunTokenizer, batch: int, device: torch.device | None = None
    ) -> None:
        super().__init__()
        first = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
        if first is None:
            raise UserError(f"{tokenizer.where}: no token begins or ends a text: name one by --eos TOKEN")
        self.tokens = tokenizer.tokenizer
        self.model = saved.model_alone(device)
        self.batch = batch
        self.max_tokens = max_position_of(saved)
        self._first = first
        self._last = first if tokenizer.eos is None else tokenizer.eos
        self._first_text: str = self.tokens.decode([first], skip_special_tokens=False)

    @property
    def eot_token_id(self) -> int:
        return self._last

    @property
    def prefix_token_id(self) -> int:
        return self._first

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text that begins with the first token's own text gets no second one."""
        if add_special_tokens is None:
            add_special_tokens = not (self._first_text and string.startswith(self._first_text))
        ids: list[int] = self.tokens.encode(string, add_special_tokens=add_special_tokens).ids
        return ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        asked = [Continuation(context, continuation).cut(self.max_tokens) for _, context, continuation in requests]
        scored = score(self.model, asked, max(ROW_TOKENS, self.max_tokens), self.batch)
        return [(one.log_probability, one.is_greedy) for one in scored]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows of the model's length that share one token: all tokens are counted once."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            cut = get_rolling_token_windows(self.tok_encode(text), self._first, self.max_tokens, 1)
            for context, continuation in map(make_disjoint_window, cut):
                windows.append((None, context, continuation))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += value
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Of rows that are about as long side by side: what fills up the shorter ones costs time and no digit."""
        asked = [self._asked(*request.args) for request in requests]
        order = sorted(range(len(asked)), key=lambda number: -len(asked[number][0]))
        answers = [""] * len(asked)
        for start in range(0, len(order), self.batch):
            batch = order[start : start + self.batch]
            texts = [Text(self.tokens, asked[number][1]) for number in batch]
            write(self.model, [asked[number][0] for number in batch], texts, likeliest)
            for number, text in zip(batch, texts, strict=True):
                answers[number] = text.text
        return answers

    def _asked(self, context: str, asked: dict[str, Any]) -> tuple[list[int], Until]:
        """The ids to write on from, and where the text ends."""
        if unknown := asked.keys() - GENERATION:
            raise UserError(f"a task asks to generate with {', '.join(sorted(unknown))}: not known here")
        temperature = float(asked.get("temperature") or 0.0)
        if asked.get("do_sample") and temperature > 0:
            raise UserError("a task asks for sampling (do_sample): only the likeliest token is taken here")
        names = ("max_gen_toks", "max_new_tokens", "max_tokens")
        new_tokens = next((int(asked[name]) for name in names if asked.get(name)), NEW_TOKENS)
        if new_tokens >= self.max_tokens:
            raise UserError(
                f"a task asks for {new_tokens:,} new tokens, and the model knows texts of {self.max_tokens:,}: "
                "no room is left for the question"
            )
        until = asked.get("until") or []
        ids = self.tok_encode(context)[-(self.max_tokens - new_tokens) :] or [self._first]
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        return ids, Until.of(self.tokens, new_tokens, [self._last], stops)
