"""How deep JSON may nest: a number, and not what the stack of the moment has room for.

Parsers recurse, and give up where Python's stack ends: at another depth in a worker than in a test. So the depth is
counted first, in the bytes, and what is within the limit is parsed on a stack that has room for it.
"""

import re
import threading
from collections.abc import Callable
from typing import TypeVar

#: Arrays and objects open at once. Real records have fewer than ten.
MAX_DEPTH = 512

T = TypeVar("T")

#: Strings whole, so that brackets in them do not count. `*+` never goes back, so that no text takes quadratic time.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[{]+)|([\]}]+)', re.DOTALL)


def is_deeper(data: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether more than `limit` arrays and objects are open at once somewhere in this text of JSON (or of none)."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False  # nearly always, and quick
    depth = 0
    for token in _TOKENS.finditer(data):
        if token.lastindex == 1:
            depth += token.end() - token.start()
            if depth > limit:
                return True
        elif token.lastindex == 2:
            depth -= token.end() - token.start()
    return False


def with_room(parse: Callable[[bytes], T], data: bytes) -> T:
    """What `parse` makes of data that is not too deep, however much of this thread's stack is in use."""
    try:
        return parse(data)
    except RecursionError:
        parsed: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                parsed.append(parse(data))
            except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that asked
                raised.append(error)

        thread = threading.Thread(target=run, name="parse")
        thread.start()
        thread.join()
        if raised:
            raise raised[0] from None
        return parsed[0]
