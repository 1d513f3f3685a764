"""A value that is computed once, by threads and in forks too."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import bamba
from bamba_data.cached_property import cached_property

FORKED = """
    import os, threading
    from bamba_data.cached_property import cached_property

    begun, may_end = threading.Event(), threading.Event()

    class Made:
        @cached_property
        def value(self):
            begun.set()
            may_end.wait()
            return 7

    threading.Thread(target=lambda: Made().value, daemon=True).start()
    begun.wait()
    child = os.fork()
    may_end.set()
    assert Made().value == 7
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    @cached_property
    def value(self) -> int:
        """Seven."""
        self.calls += 1
        return 7


def test_it_is_computed_once_and_belongs_to_the_instance() -> None:
    one, other = Counted(), Counted()
    assert (one.value, one.value, one.calls, other.calls) == (7, 7, 1, 0)
    assert vars(one)["value"] == 7 and Counted.value.__doc__ == "Seven."
    del one.value
    assert (one.value, one.calls) == (7, 2)


def test_a_fork_does_not_wait_for_a_thread_that_computes_one() -> None:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("both\n", 0), done.stderr


def test_nobody_takes_the_one_that_has_a_lock() -> None:
    packages = [Path(folder) for name in ("bamba_data", "loader", "pipelines", "trainer") for folder in paths_of(name)]
    files = [file for folder in packages for file in folder.rglob("*.py") if file.name != "cached_property.py"]
    locked = re.compile(r"functools\.cached_property|from functools import .*cached_property")
    assert len(files) > 200 and [file for file in files if locked.search(file.read_text())] == []


def paths_of(name: str) -> list[str]:
    return [str(Path(bamba.__file__).parents[1] / name)]
