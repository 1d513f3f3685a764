"""A chat template: messages in, text and the parts of it that the assistant says out, rendered as transformers does.

Which parts are the assistant's is told by the template, where it has `{% generation %}` (as transformers marks them),
else by rendering twice: an assistant's turn is what it adds to the text before it with the prompt to generate. That is
exactly what the model will have to say after that prompt. A template whose earlier text changes with later messages
cannot be told apart so, and is refused.

`strftime_now` is left out: a text that says today's date would be another dataset tomorrow.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError, one_line

from .files import BadConversation, Message

#: Around what a template generates. No text can have them: Unicode promises that they are no characters.
BEGIN, END = "\ufdd0", "\ufdd1"
MAX_CHARS = 1 << 20  # of a template and its special tokens, which lie in the commit of an imported model


#: What an expression of a template may raise, as any of Python's may.
_FAILS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class Rendered(NamedTuple):
    """`spans` are the [begin, end) of what the assistant says, in characters, ascending."""

    text: str
    spans: list[tuple[int, int]]


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: leaves its text, between BEGIN and END."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{BEGIN}{caller()}{END}"


@dataclass(frozen=True)
class ChatTemplate:
    """The template's text, where it is from, and the names of special tokens that it may use (`bos_token`, …).

    Raises:
        UserError: There is too much of it, or half a surrogate pair in it, which no file can hold.
    """

    text: str
    where: str
    special_tokens: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        said = "".join([self.text, *(part for pair in self.special_tokens for part in pair)])
        if len(said) > MAX_CHARS:
            raise UserError(
                f"{self.where}: a chat template and special tokens of {len(said):,} characters, the limit is "
                f"{MAX_CHARS:,}: a template has some thousand"
            )
        try:
            said.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{self.where}: the chat template, or a special token, has {said[error.start]!r}, half of a surrogate "
                "pair, which is no character: take it out"
            ) from None

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        try:
            return environment.from_string(self.text)
        # what jinja makes of it Python compiles: too deep is an error of Python's own
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise UserError(f"{self.where}: no chat template ({one_line(error)})") from None

    def render(self, messages: Sequence[Message], tools: list[Any] | None = None) -> Rendered:
        """A conversation as text.

        Raises:
            BadConversation: The template refuses it, or leaves a message out.
            UserError: It cannot be told which parts the assistant says.
        """
        if any(BEGIN in message["content"] or END in message["content"] for message in messages):
            raise BadConversation("has U+FDD0 or U+FDD1, which are no characters")
        whole = self._render(messages, tools)
        if BEGIN in whole:
            rendered = _unmarked(whole)
        else:
            rendered = Rendered(whole, self._added(messages, tools, whole))
        _check_all_is_there(messages, rendered.text)
        return rendered

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that the assistant goes on from. Raises BadConversation where the template refuses it, or leaves a
        message out."""
        text = self._render(messages, None, prompt=True).replace(BEGIN, "").replace(END, "")
        _check_all_is_there(messages, text)
        return text

    def after_an_answer(self) -> str:
        """What the template writes between an answer and what the user says next; nothing where it cannot be told."""
        said = [("user", "first question"), ("assistant", "whole answer"), ("user", "second question")]
        try:
            text = self.prompt([{"role": role, "content": content} for role, content in said])
        except BadConversation:
            return ""
        return text.partition("whole answer")[2].partition("second question")[0]

    def _added(self, messages: Sequence[Message], tools: list[Any] | None, whole: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], tools, prompt=True)
            through = self._render(messages[: number + 1], tools) if number + 1 < len(messages) else whole
            if not (through.startswith(before) and whole.startswith(through)):
                raise UserError(
                    f"{self.where}: the text of earlier messages, or of the prompt to generate, is another one when "
                    "the answer follows, so what the assistant says cannot be told from it: put {% generation %} … "
                    "{% endgeneration %} around that in a copy of the template"
                )
            spans.append((len(before), len(through)))
        return spans

    def _render(self, messages: Sequence[Message], tools: list[Any] | None, *, prompt: bool = False) -> str:
        try:
            text = self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=prompt,
                **dict(self.special_tokens),
            )
            text.encode()  # half of a surrogate pair has no tokens
        except _FAILS as error:
            raise BadConversation(f"the template refuses it: {one_line(error, 120)}") from None
        return text


def _unmarked(marked: str) -> Rendered:
    """Without the marks, and where they stood."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for number, piece in enumerate(marked.split(BEGIN)):
        said, end, rest = piece.partition(END) if number else ("", "", piece)
        if end:
            spans.append((at, at + len(said)))
        parts += [said, rest]
        at += len(said) + len(rest)
    return Rendered("".join(parts), spans)


def _check_all_is_there(messages: Sequence[Message], text: str) -> None:
    """A template that knows no role `tool` may leave it out without a word."""
    at = 0
    for number, message in enumerate(messages):
        content = message["content"].strip()
        found = text.find(content, at)
        if found < 0:
            raise BadConversation(f"the template leaves out or changes message {number} ({message['role']})")
        at = found + len(content)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


# ---- where a template comes from


def tokenizer_file(tokenizer: str) -> Path:
    """The tokenizer.json of a folder, or the file itself. Raises UserError where there is none."""
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"tokenizer {tokenizer}: {file} is not there; name a folder with tokenizer.json, or that file")
    return file


def template_of(tokenizer: str, template: str | None) -> ChatTemplate:
    """The template in the file `template`, else that of the tokenizer's folder.

    Raises:
        UserError: There is none, or it cannot be read; several by name, and none is called `default`.
    """
    folder = tokenizer_file(tokenizer).parent
    if template is not None:
        return ChatTemplate(_read(Path(template)), template, _special_tokens(_config(folder)))
    if (found := template_beside(folder)) is None:
        raise UserError(
            f"{folder}: the tokenizer has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json): say `template`, a file with one"
        )
    return found


def template_beside(folder: Path) -> ChatTemplate | None:
    """The one that a folder of Hugging Face's states, None where it has none. Raises UserError as `template_of`."""
    config = _config(folder)
    special = _special_tokens(config)
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return ChatTemplate(_read(beside), str(beside), special)
    stated, config_file = config.get("chat_template"), folder / "tokenizer_config.json"
    where = str(config_file)
    if isinstance(stated, list):
        by_name = {item.get("name"): item.get("template") for item in stated if isinstance(item, dict)}
        if "default" not in by_name:
            raise UserError(
                f"{config_file}: chat templates by name ({', '.join(sorted(map(str, by_name)))}), none is `default`: "
                f"write the one that is meant into {beside}"
            )
        stated = by_name["default"]
        where = f"{config_file} (`default` of {', '.join(sorted(map(str, by_name)))})"
    return ChatTemplate(stated, where, special) if isinstance(stated, str) and stated else None


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return _json(file) if file.is_file() else {}


def _special_tokens(config: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """(role, text) of each that has one."""
    return tuple(
        (name, text)
        for name, value in sorted(config.items())
        if name.endswith("_token")
        and isinstance(text := value.get("content") if isinstance(value, dict) else value, str)
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value
