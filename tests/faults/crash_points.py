"""Run a build again and again, killed by SIGKILL at one point of its storage after the other, and finished after it.

    python -m tests.faults.crash_points RECIPE FOLDER [STEP]

A point is just before or just after a call that changes the disk: fsync, rename, link, unlink, pwrite. Every child is
a fork of this process (warm: no second import of anything), which dies of a real SIGKILL, by its own hand, at its
point. Then another child runs the same build to its end. Prints one JSON line: the digest of an undisturbed build,
and what differed at which point. STEP thins the points out.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from bamba_data.inspect.verify import verify
from bamba_data.locking.lock import load_tokenizer
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.conformance import choose
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here


class Killer:
    """Counts the calls that change the disk; at number `point` the process is gone."""

    def __init__(self, point: int) -> None:
        self.seen, self._point, self._counts = 0, point, Lock()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.pass_by()
            result = call(*args, **kwargs)
            self.pass_by()
            return result

        return wrapped

    def pass_by(self) -> None:
        with self._counts:
            if self.seen == self._point:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1

    def arm(self) -> None:
        os.fsync = self.around(os.fsync)
        os.link = self.around(os.link)
        os.unlink = self.around(os.unlink)
        os.pwrite = self.around(os.pwrite)
        Path.replace = self.around(Path.replace)  # type: ignore[method-assign]
        Path.unlink = self.around(Path.unlink)  # type: ignore[method-assign]


def build(recipe: str, out: Path) -> str:
    """The whole build in this process, without Ray; the dataset's digest."""
    loaded, folder = load_recipe(recipe, None)
    fetcher = Fetcher()
    prepared = prepare(loaded, folder, str(out), fetcher)
    if faults := run_here(prepared, fetcher):
        raise faults[0]
    return finish(prepared)[1].digest


def in_child(work: Callable[[], str]) -> str | None:
    """What `work` returns in a forked child; None if the child was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, work().encode())
        except BaseException as error:  # noqa: BLE001 - said to the parent, whatever it is
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else said


def main(recipe: str, folder: Path, step: int) -> None:
    loaded, where = load_recipe(recipe, None)
    choose(load_tokenizer(loaded, where, Fetcher()), loaded.tokenizer.backend)  # warm, for all children

    def killed_at(point: int) -> str:
        killer = Killer(point)
        killer.arm()
        digest = build(recipe, folder / "out")
        return f"{killer.seen} {digest}"

    quiet = in_child(lambda: killed_at(-1))
    assert quiet is not None
    points, digest = quiet.split()
    differs: dict[int, str | None] = {}
    tried = range(0, int(points), step)
    for point in tried:
        shutil.rmtree(folder / "out")
        if (survived := in_child(lambda p=point: killed_at(p))) is not None:  # type: ignore[misc]
            differs[point] = f"not killed: {survived}"
            continue

        def again() -> str:
            found = build(recipe, folder / "out")
            faults = verify(str(folder / "out"), full=True).faults
            return found if not faults else f"{found} with faults {faults}"

        if (found := in_child(again)) != digest:
            differs[point] = found
    print(json.dumps({"digest": digest, "points": int(points), "tried": len(tried), "differs": differs}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
