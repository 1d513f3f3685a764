"""Which machines of a cluster can be worked on. A machine that fails several tasks in a row, whatever they are, is left
out for a while; a task that failed on one is tried on another.

A machine's trouble is what its own system says: a disk that is full, broken or read-only, a mount or a module that is
missing, no memory. It is told with the machine and the path, and it is never the build's.
"""

import contextlib
import functools
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bamba_data.errors import BambaError, MachineFault, NoMachineLeft, WorkerFault

MAX_FAULTS = 3  # of a machine, in a row
PAUSE_SECONDS = 600.0  # then it gets another chance, and is left out again at its first fault


def on_a_machine(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work(item, …, progress)` as a task: `progress` hears that it started, and where; what it returns comes with the
    id of the node, and whatever it raises is one of our errors and says where."""

    @functools.wraps(work)
    def placed(*arguments: Any) -> tuple[str, Any]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        name, progress = arguments[0].name, arguments[-1]
        progress.started.remote(name)
        progress.placed.remote(name, node)
        with faults_of(node):
            return node, work(*arguments)

    return placed


@contextlib.contextmanager
def faults_of(node: str) -> Iterator[None]:
    """Whatever is raised within is one of our errors and says where: on the `node` of that id, "" without a cluster."""
    try:
        yield
    except BambaError as error:
        error.machine = node
        raise
    except (OSError, MemoryError, ImportError) as error:
        raise _fault(error, node) from None
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw: one unit's fault, not the build's
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split())[:300]
        fault = WorkerFault(f"{type(error).__name__}: {message}", f"{place.filename}:{place.lineno}")
        fault.machine = node
        raise fault from None


def _fault(error: BaseException, node: str) -> MachineFault:
    path = str(getattr(error, "filename", None) or "")
    message = getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__
    machine = f"{socket.gethostname()} (node {node[:8]})" if node else socket.gethostname()
    fault = MachineFault(machine, path, str(message))
    fault.machine = node
    return fault


@dataclass
class _Trouble:
    """Of one machine: faults in a row, until when it is left out, and the message of the last one."""

    faults: int = 0
    until: float = 0.0
    message: str = ""


@dataclass
class Machines:
    """The state of all machines, by node id. Times are those of time.monotonic."""

    _troubles: dict[str, _Trouble] = field(default_factory=dict)

    def worked(self, node: str) -> None:
        self._troubles.pop(node, None)

    def failed(self, node: str, message: str) -> bool:
        """Count a fault; True if the machine is now left out."""
        trouble = self._troubles.setdefault(node, _Trouble())
        trouble.faults, trouble.message = trouble.faults + 1, message
        if trouble.faults < MAX_FAULTS or trouble.until > time.monotonic():
            return False
        trouble.until = time.monotonic() + PAUSE_SECONDS
        return True

    def left_out(self) -> set[str]:
        now = time.monotonic()
        return {node for node, trouble in self._troubles.items() if trouble.until > now}

    def usable(self, alive: Iterable[str]) -> set[str]:
        """Those of `alive` that are not left out. Raises NoMachineLeft if all of them are."""
        there = set(alive)
        usable = there - self.left_out()
        if there and not usable:
            raise NoMachineLeft([self._troubles[node].message for node in sorted(there)])
        return usable


def alive() -> set[str]:
    """The nodes of the cluster that have cores."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}


def elsewhere(nodes: Iterable[str]) -> dict[str, Any]:
    """The options of a task that must not run on these nodes."""
    names = sorted(nodes)
    return {"label_selector": {"ray.io/node-id": f"!in({','.join(names)})"}} if names else {}
