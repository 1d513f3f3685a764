"""A conversation on a terminal, or through a pipe: lines of a user in, answers out, and words to us between them.

    /reset          begin anew
    /system TEXT    begin anew with another system message
    //TEXT          say a line that begins with a slash

Ctrl-C ends an answer and not the program; Ctrl-D, or the end of the pipe, ends the conversation.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bamba_data.terminal import emit, print_json_line, say, show

from .chat import Chat, Unsaid


def converse(talk: Chat, *, as_json: bool) -> None:
    """Until nothing more is said. With `as_json` each answer, or why there is none, is an object in a line."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if on_terminal:
        say(
            f"{talk.limit_tokens:,} tokens of context. /reset, /system TEXT; Ctrl-C ends an answer, Ctrl-D the "
            "conversation."
        )
    for line in _typed() if on_terminal else _read():
        _turn(talk, line, as_json=as_json)


def _turn(talk: Chat, line: str, *, as_json: bool) -> None:
    """One line of the user: a word to us, or a turn of the conversation."""
    word, _, rest = line.partition(" ")
    if line.startswith("/") and not line.startswith("//"):
        if word == "/reset" and not rest:
            talk.reset()
        elif word == "/system":
            talk.reset(rest.strip())
        else:
            say(f"{word} is no word of ours: /reset, /system TEXT; // begins a line that begins with a slash")
        return
    try:
        said = line[1:] if line.startswith("//") else line
        with _interruptible() as is_wanted:
            answer = talk.ask(said, _quiet if as_json else show, is_wanted)
    except Unsaid as error:
        say(f"note: {error}")
        if as_json:
            print_json_line({"error": str(error)})
        return
    if as_json:
        print_json_line(answer)
    else:
        emit("")
    if answer.why == "tokens":
        full = answer.context_tokens + answer.tokens >= talk.limit_tokens
        why = f"the context of {talk.limit_tokens:,} is full: /reset begins anew" if full else "--tokens takes more"
        say(f"note: the answer was cut after {answer.tokens:,} tokens; {why}")


def _quiet(piece: str) -> None:
    """An answer in JSON comes whole."""


def _typed() -> Iterator[str]:
    """The lines of a person, until Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (what is typed can be edited, and earlier lines come back)
    while True:
        try:
            line = input("> ")
        except EOFError:
            emit("")
            return
        except KeyboardInterrupt:
            say("\nCtrl-D ends the conversation")
            continue
        if line.strip():
            yield line


def _read() -> Iterator[str]:
    """The lines of a pipe or a file."""
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is remembered, and the answer asks for it; the second one interrupts, as everywhere."""
    pressed: list[int] = []

    def remember(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: not pressed
    finally:
        signal.signal(signal.SIGINT, before)
