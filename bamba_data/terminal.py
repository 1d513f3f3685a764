"""What people see of our commands: text without hidden controls, one console, JSON, a progress bar.

Names, ids and error texts come from other people's files. An escape sequence in one could rewrite the screen of whoever
lists it (CWE-150), so every control character is shown as its code, `\\x1b`, and does nothing.
"""

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType

SEGMENTS_AT_ONCE = 1 << 14
#: Into a pipe or a file nothing is folded to the width of a terminal that is not there.
PIPE_COLUMNS = 240
#: C0 but tab and newline, DEL and C1 (a terminal takes \x9b for "escape ["), and the marks that turn reading direction
#: ("Trojan Source", CVE-2021-42574).
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with every control character but tab and newline as its code, such as `\\x1b`."""
    return _CONTROLS.sub(lambda control: control[0].encode("unicode_escape").decode("ascii"), text)


def console(pipe_columns: int = PIPE_COLUMNS, *, stderr: bool = False) -> "Console":
    """For people: colours and tables on a terminal, plain text into a pipe, and no control character of the data."""
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                # Segments of control are rich's own: it moves the cursor for a progress bar.
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    return PrintableConsole(stderr=stderr, highlight=False, width=None if stream.isatty() else pipe_columns)


def print_lines(out: "Console", long: "RenderableType") -> None:
    """Print what may have millions of lines, some at a time."""
    from rich.segment import Segments

    segments = iter(out.render(long))
    while some := list(islice(segments, SEGMENTS_AT_ONCE)):
        out.print(Segments(some), end="")


def print_json(value: Any) -> None:
    """One JSON document on stdout. Dataclasses become objects; what JSON has no word for becomes text."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    sys.stdout.write(f"{_escaped(text)}\n")


def print_json_line(value: Any) -> None:
    """The same in one line, which can be read at once."""
    sys.stdout.write(f"{_escaped(json.dumps(value, ensure_ascii=False, default=_plain))}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def opened_output(file: "Path | None") -> Iterator[Callable[[str], None]]:
    """`write(line)` puts a line of JSON into `file`, or on stdout, where it can be read at once."""
    with contextlib.ExitStack() as stack:
        out = sys.stdout if file is None else stack.enter_context(file.open("w", encoding="utf-8"))

        def write(line: str) -> None:
            out.write(f"{_escaped(line)}\n")
            out.flush()

        yield write


def _escaped(text: str) -> str:
    """Of JSON: json escapes what lies below 0x20; the other controls mean the same as \\u escapes."""
    return _CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def emit(text: str) -> None:
    """A result as plain text, with a newline at its end, on stdout."""
    sys.stdout.write(f"{printable(text)}\n")


def show(piece: str) -> None:
    """A piece of a result, at once and without a newline, on stdout: a text that is still being made."""
    sys.stdout.write(printable(piece))
    sys.stdout.flush()


def say(line: str) -> None:
    """A line on stderr, for what is no result: stdout may be read by a program."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def progress_bar(name: str, is_wanted: bool = True) -> Iterator[Callable[[int, int], None]]:
    """On stderr, if that is a terminal: `tick(done, total)` moves it."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    screen = console(stderr=True)
    is_shown = is_wanted and screen.is_terminal
    with Progress(*columns, console=screen, transient=True, disable=not is_shown) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
