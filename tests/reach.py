"""Which tests start other processes: found by what their code can reach, so that nobody has to keep a list.

From a test and its fixtures the names in their code are followed, through functions of these tests, to the modules and
helpers below. What hides from that (a worker of a DataLoader, a pool in the code under test) is caught when it happens:
such a test fails in `make quick`, and says `@pytest.mark.process` itself.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

#: Modules whose use in a test, or in a helper of tests, means another process or a server.
MODULES = {"subprocess", "multiprocessing", "concurrent.futures.process", "pty", "ray"}
#: Packages of tests: those about processes, and helpers that are servers.
PACKAGES = ("tests.faults.", "tests.servers.")
#: Fixtures of a server, and of the interpreter, in which a kernel takes seconds.
FIXTURES = {"s3", "triton_kernels"}
#: Audit events of a new process: https://docs.python.org/3/library/audit_events.html
EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec"}


def starts_processes(item: pytest.Item) -> bool:
    """Whether a test is known to start a process, to talk to a server, or to run in Triton's interpreter."""
    if not isinstance(item, pytest.Function) or item.module.__name__.startswith(PACKAGES):
        return True
    if FIXTURES & set(item.fixturenames) or item.get_closest_marker("ray") or item.get_closest_marker("s3"):
        return True
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - pytest has no public name for it
    fixtures = [definition.func for several in definitions.values() for definition in several]
    return any(_reaches(function, set()) for function in (item.obj, *fixtures))


def _reaches(function: Callable[..., Any], seen: set[Any]) -> bool:
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(plain, FunctionType) or plain in seen:
        return False
    seen.add(plain)
    for name in _names(plain.__code__):
        value = plain.__globals__.get(name)
        home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if name in MODULES or home in MODULES or str(home).startswith((*PACKAGES, "ray.", "multiprocessing.")):
            return True
        if str(home).startswith("tests."):
            parts = vars(value).values() if isinstance(value, type) else [value]
            if any(_reaches(part, seen) for part in parts if callable(part)):
                return True
    return False


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


class NewProcesses:
    """The first process that was started in this one since `forget`."""

    def __init__(self) -> None:
        self.first: str | None = None
        sys.addaudithook(self._heard)

    def forget(self) -> None:
        self.first = None

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and self.first is None:
            self.first = f"{event} {arguments[:2]}"
