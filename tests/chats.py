"""Conversations, a tokenizer's folder with a chat template, and files of both, for tests."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.corpora import TOKENIZER

#: As many models write their turns.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: The same, with the parts that are generated marked.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<|endoftext|>{% endgeneration %}{% else %}{{ m.content }}<|endoftext|>{% endif %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def conversation(number: int, turns: int = 2) -> list[dict[str, Any]]:
    """Turns of user and assistant whose lengths vary with the number."""
    said: list[dict[str, Any]] = [turn("system", "Be exact.")] if number % 3 == 0 else []
    for at in range(turns):
        said.append(turn("user", f"What is {number} plus {at}? " + "Think about it. " * (number % 5)))
        said.append(turn("assistant", f"It is {number + at}." + " Surely." * (number % 4)))
    return said


def folder(path: Path, template: str | None = CHATML, **config: Any) -> Path:
    """A folder with the tokenizer that ships with us, and a template."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", **config}
    (path / "tokenizer_config.json").write_text(json.dumps(stated))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path


def write(path: Path, conversations: Iterable[Sequence[Any]], column: str = "messages") -> Path:
    """A file of lines."""
    lines = (json.dumps({column: messages}, ensure_ascii=False) for messages in conversations)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
