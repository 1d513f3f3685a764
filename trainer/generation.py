"""What a checkpoint writes on from prompts: one, shown as it comes, or a file of them, some side by side.

    writer = Writer.of("runs/a", None, Sampling(temperature=0.8), new_tokens=64, stops=["\n\n"])
    writer.stream("Call me", seed=1, show=print)
    for answer in writer.answers(prompts_of(Path("prompts.jsonl"), seed=1), batch=8): ...

By what the layers remember of a text (decode/): a token costs the same however long the text is, but for attention.
To serve a model, export it (hf/export.py).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bamba_data.errors import UserError, one_line
from bamba_data.terminal import say

from .checkpoint.reader import SavedCheckpoint
from .checkpoint.tokenizer import of_checkpoint
from .decode.sampling import Sampling, choosing
from .decode.text import Text, Until
from .decode.texts import write
from .hf.export import max_position_of
from .model.bamba import Bamba

MAX_SEED = 2**63
#: What a line of prompts may say.
FIELDS = ("prompt", "seed", "id")


@dataclass(frozen=True, slots=True)
class Prompt:
    """`id` is the user's own name for it, handed on."""

    text: str
    seed: int
    id: str | int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was written on from a prompt, and why it ended: see decode/text.py."""

    prompt: Prompt
    text: str
    why: str
    tokens: int

    def line(self) -> str:
        """One line of JSON."""
        named = {} if self.prompt.id is None else {"id": self.prompt.id}
        said = {"prompt": self.prompt.text, "text": self.text, "why": self.why}
        return json.dumps({**named, **said, "tokens": self.tokens, "seed": self.prompt.seed}, ensure_ascii=False)


def prompts_of(file: Path, seed: int) -> list[Prompt]:
    """The prompts in a file of JSON lines, `{"prompt": …}` each, with a `seed` and an `id` if they like.

    Args:
        seed: Of the lines that name none.

    Raises:
        UserError: The file cannot be read, has no prompt, or a line says what is not known here; it names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({one_line(error)})") from None
    prompts = [_prompt(line, seed, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f'{file} has no prompt: a line each is needed, {{"prompt": "Call me"}}')
    return prompts


def _prompt(line: str, seed: int, where: str) -> Prompt:
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON ({one_line(error)})") from None
    if not isinstance(said, dict) or not is_text(said.get("prompt")) or not said["prompt"]:
        raise UserError(f'{where}: no object with a text as "prompt"')
    if unknown := sorted(said.keys() - set(FIELDS)):
        raise UserError(f"{where} says {', '.join(unknown)}: known are {', '.join(FIELDS)}")
    own, name = said.get("seed", seed), said.get("id")
    if isinstance(own, bool) or not isinstance(own, int) or not 0 <= own < MAX_SEED:
        raise UserError(f"{where}: seed is {own!r:.40}: it must be a whole number from 0 on")
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise UserError(f"{where}: id is {name!r:.40}: it must be a text or a whole number")
    return Prompt(said["prompt"], own, name)


def is_text(value: object) -> bool:
    """JSON can hold halves of a character (`\\ud83d`), which no tokenizer takes."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


@dataclass(frozen=True)
class Writer:
    """The model of a checkpoint, and how texts are written on.

    Attributes:
        limit_tokens: The longest text that the model was trained on.
    """

    model: Bamba
    tokenizer: Tokenizer
    sampling: Sampling
    until: Until
    limit_tokens: int

    @classmethod
    def of(
        cls, checkpoint: str, tokenizer: Path | None, sampling: Sampling, new_tokens: int, stops: Sequence[str]
    ) -> "Writer":
        """On a GPU if there is one, there in bfloat16, on a CPU in float32. A text ends where a document ended in
        training, too."""
        saved = SavedCheckpoint(checkpoint)
        read = of_checkpoint(saved, tokenizer)
        until = Until.of(read.tokenizer, new_tokens, [read.eos], stops)
        model = saved.model_alone()
        return cls(model, read.tokenizer, sampling, until, max_position_of(saved))

    def stream(self, prompt: str, seed: int, show: Callable[[str], None]) -> Answer:
        """Write on from one prompt; the prompt, as the model reads it, and then each new character are shown."""
        ids = self._ids(prompt)
        show(self.tokenizer.decode(ids))
        text = Text(self.tokenizer, self.until, before=ids)
        write(self.model, [ids], [text], choosing(self.sampling, [seed]), lambda _, new: show(new))
        return _answer(Prompt(prompt, seed), text)

    def answers(self, prompts: Sequence[Prompt], batch: int) -> Iterator[Answer]:
        """Of each prompt, in their order; `batch` of them are written side by side. What is written does not depend on
        which these are."""
        ids = [self._ids(prompt.text) for prompt in prompts]
        for start in range(0, len(prompts), batch):
            some = slice(start, start + batch)
            texts = [Text(self.tokenizer, self.until, before=own) for own in ids[some]]
            choose = choosing(self.sampling, [prompt.seed for prompt in prompts[some]])
            write(self.model, ids[some], texts, choose)
            yield from map(_answer, prompts[some], texts)

    def _ids(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(prompt).ids
        if not ids:
            raise UserError(f"{prompt!r:.40} makes no token: a prompt of one token at least is needed")
        if len(ids) + self.until.new_tokens > self.limit_tokens:
            say(
                f"note: a prompt of {len(ids):,} tokens and {self.until.new_tokens:,} more are beyond the "
                f"{self.limit_tokens:,} that the model was trained on"
            )
        return ids


def _answer(prompt: Prompt, text: Text) -> Answer:
    assert text.why is not None
    return Answer(prompt, text.text, text.why, len(text.ids))
