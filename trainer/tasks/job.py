"""Many checkpoints asked a suite, as parts that can be done anywhere, in any order, twice: each a subtask of one.

    job = benchmark_job(checkpoints, suite, "s3://bucket/results", batch=32, questions=None)
    for number, part in enumerate(job.parts): job.do(number)     # wherever; what is in job.finished() is done
    numbers = job.numbers(suite)

A part leaves its result in the folder under the name that `benchmark` gives it, so neither computes what the other did.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bamba_data.storage.store import open_store

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer
from .benchmark import Subtask, answer, known_tasks, numbers_of, subtasks_of
from .comparison import Numbers
from .suites import Suite

OVERHEAD_BYTES = 3 << 30  # of a part beside the weights: torch, the harness, the data of a subtask
WEIGHT_BYTES = 4  # of a parameter on the host, as it is read


@dataclass(frozen=True)
class Part:
    """A subtask of the checkpoint at `url`, and how that one's texts become tokens."""

    url: str
    tokenizer: RunTokenizer
    subtask: Subtask

    @property
    def name(self) -> str:
        return f"{self.url.rsplit('/', 1)[-1]} {self.subtask.name}"

    @property
    def result(self) -> str:
        """The path of what it leaves, in the folder of results."""
        return self.subtask.file


@dataclass(frozen=True)
class BenchmarkJob:
    """All that a machine must know of it; it crosses processes.

    Attributes:
        parts: Those of one checkpoint one after the other.
        out: URL of the folder of results, which every machine reaches.
        batch: Sequences at once, as of `CheckpointModel`.
        task_bytes: Of the host's memory that a part may need.
    """

    parts: tuple[Part, ...]
    out: str
    batch: int
    task_bytes: int

    def finished(self) -> set[str]:
        """The results that are there."""
        return {entry.path for entry in open_store(self.out).list()}

    def do(self, number: int) -> None:
        """One part. A process keeps the model of its last one: the next is mostly of the same checkpoint."""
        part = self.parts[number]
        answer(part.subtask, _model(part.url, part.tokenizer, self.batch), _manager(), open_store(self.out))

    def numbers(self, suite: Suite) -> list[Numbers]:
        """Of each checkpoint, when all parts are done."""
        store = open_store(self.out)
        urls = dict.fromkeys(part.url for part in self.parts)
        return [
            numbers_of(SavedCheckpoint(url), suite, [part.subtask for part in self.parts if part.url == url], store)
            for url in urls
        ]


def benchmark_job(
    checkpoints: Sequence[tuple[SavedCheckpoint, RunTokenizer]],
    suite: Suite,
    out: str,
    batch: int,
    questions: int | None,
) -> BenchmarkJob:
    """What there is to do, each checkpoint with its own tokenizer.

    Raises:
        UserError: A task is unknown, or its local data is not there.
    """
    manager = _manager()
    parts = tuple(
        Part(f"{saved.store.url.rstrip('/')}/{saved.name}", tokenizer, subtask)
        for saved, tokenizer in checkpoints
        for subtask in subtasks_of(saved, tokenizer, suite, questions, manager)
    )
    largest = max(saved.config.parameters for saved, _ in checkpoints)
    return BenchmarkJob(parts, open_store(out).url, batch, WEIGHT_BYTES * largest + OVERHEAD_BYTES)


@functools.lru_cache(maxsize=1)
def _model(url: str, tokenizer: RunTokenizer, batch: int) -> Any:
    from .harness_model import CheckpointModel

    return CheckpointModel(SavedCheckpoint(url), tokenizer, batch)


@functools.lru_cache(maxsize=1)
def _manager() -> Any:
    return known_tasks()
