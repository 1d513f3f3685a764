"""What a user says of conversations to learn from: which files, which tokenizer and template, what becomes of odd ones.

ConversationSource("chat", ["chat.jsonl"], tokenizer="model/", max_tokens=4096)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bamba_data.errors import UserError

from ..arguments import whole_number

Form = Literal["role-content", "from-value"]
TooLong = Literal["leave_out", "cut", "refuse"]
Bad = Literal["refuse", "leave_out"]


@dataclass(frozen=True)
class ConversationSource:
    """Conversations in .jsonl or .parquet files, one a line or row. They are held in memory while they are tokenized:
    a source for fine-tuning, and not for a corpus.

    Attributes:
        name: What the source is called in a mix.
        files: Paths or URLs of any fsspec store, literal or with `*`, `**`, `?`.
        tokenizer: A folder of Hugging Face's with tokenizer.json, or that file.
        template: A file with the chat template (Jinja). None takes that of the tokenizer's folder:
            `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`.
        column: The field of a line, or column, that holds the list of messages.
        form: How a message is written: {"role", "content"}, or {"from", "value"} with the roles system, human, gpt.
        max_tokens: The longest conversation that fits, in tokens: the length of a row. None: any fits.
        too_long: What becomes of a longer one: it is left out and counted, cut at its end, or refused.
        bad: What becomes of one that is none (an unknown role, an empty message, nothing of an assistant, a message
            that the template leaves out): all is refused with its place, or it is left out and counted.

    Raises:
        UserError: A value cannot be; it names the argument.
    """

    name: str
    files: Sequence[str] | str
    tokenizer: str
    template: str | None = None
    column: str = "messages"
    form: Form = "role-content"
    max_tokens: int | None = None
    too_long: TooLong = "leave_out"
    bad: Bad = "refuse"

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", (self.files,) if isinstance(self.files, str) else tuple(self.files))
        if not self.files:
            raise UserError("files are []: name at least one file of conversations")
        if self.max_tokens is not None:
            object.__setattr__(self, "max_tokens", whole_number("max_tokens", self.max_tokens, 2))
        for name, kinds in (("form", Form), ("too_long", TooLong), ("bad", Bad)):
            if getattr(self, name) not in get_args(kinds):
                raise UserError(f"{name} is {getattr(self, name)!r}: it can be {', '.join(get_args(kinds))}")
