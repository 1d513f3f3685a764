"""A checkpoint's numbers on a suite: `bamba-data model benchmark CHECKPOINT… --suite SUITE --out FOLDER`.

Each subtask's result is an object in the folder as soon as it is there, named by what it was asked of: the checkpoint,
the task with its shots, and the bytes of local data. The same command again computes only what is missing.

    asked = subtasks_of(saved, tokenizer, suite, None, known_tasks())     # what there is to do, without a model
    answer(subtask, model, manager, store)                                # one of it, into the folder
    numbers = numbers_of(saved, suite, asked, store)                      # when all are there
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from bamba_data import canonical_json
from bamba_data.errors import CorruptCheckpoint, UserError, one_line
from bamba_data.storage.store import Store, open_store
from bamba_data.terminal import say

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer
from .comparison import Numbers
from .suites import Suite, TaskSpec, suite_number, task_number

FORMAT = "bamba-benchmark/1"

#: {subtask: what stands in the place of the harness's own}. ToxiGen's target is a number of numpy, which 0.4.13 refuses
#: in the examples before a question; the same in a template gives a plain number.
REPAIRS = {"toxigen": {"doc_to_target": "{{ ((toxicity_ai + toxicity_human) > 5.5) | int }}"}}


@dataclass(frozen=True)
class Subtask:
    """One task of the harness, asked of one checkpoint.

    Attributes:
        spec: The suite's task that it belongs to.
        checkpoint: Digest of the checkpoint's commit.
        questions: So many, for a look; None for all.
        tokenizer: sha256 of its file.
        data: {split: sha256} of local files.
    """

    spec: TaskSpec
    name: str
    checkpoint: str
    questions: int | None
    tokenizer: str
    data: dict[str, str]

    @property
    def asked(self) -> dict[str, Any]:
        """All that its result depends on."""
        what = {"checkpoint": self.checkpoint, "task": self.name, "shots": self.spec.shots, "questions": self.questions}
        return {**what, "tokenizer": self.tokenizer, "data": self.data}

    @property
    def file(self) -> str:
        """Of its result, in a folder of results."""
        return f"{self.name}-{canonical_json.digest(self.asked)[:12]}.json"


def benchmark(
    saved: SavedCheckpoint,
    tokenizer: RunTokenizer,
    suite: Suite,
    out: str,
    batch: int,
    questions: int | None,
    manager: Any,
) -> Numbers:
    """A checkpoint's numbers, from what is in `out` and what must still be computed.

    Args:
        out: A folder of results, a path or URL, made if it is not there.
        questions: So many of each subtask, for a look; None for all.
        manager: Of `known_tasks`; one serves many checkpoints.

    Raises:
        UserError: A task is unknown, its data cannot be had, or it lacks a metric that the suite names.
    """
    from .harness_model import CheckpointModel

    store = open_store(out)
    asked = subtasks_of(saved, tokenizer, suite, questions, manager)
    model: CheckpointModel | None = None
    for subtask in asked:
        if store.stat(subtask.file) is None:
            say(f"{subtask.name} …")
            model = model or CheckpointModel(saved, tokenizer, batch)
            answer(subtask, model, manager, store)
    return numbers_of(saved, suite, asked, store)


def subtasks_of(
    saved: SavedCheckpoint, tokenizer: RunTokenizer, suite: Suite, questions: int | None, manager: Any
) -> list[Subtask]:
    """All subtasks of a suite, in its order; `UserError` where one is unknown or its local data is not there."""
    checkpoint, words = canonical_json.digest(saved.commit), canonical_json.sha256(tokenizer.data)
    return [
        Subtask(spec, name, checkpoint, questions, words, _data_digests(harness_config(manager, spec, name)))
        for spec in suite.tasks
        for name in subtasks(manager, spec.task)
    ]


def answer(subtask: Subtask, model: Any, manager: Any, store: Store) -> None:
    """Ask `model`, a `CheckpointModel` of the subtask's checkpoint, and leave the result in `store`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = harness_config(manager, subtask.spec, subtask.name)
    result = {"format": FORMAT, **subtask.asked, **_run(manager, model, config, subtask.spec, subtask.questions)}
    store.put(subtask.file, f"{json.dumps(result, indent=2, sort_keys=True)}\n".encode())


def numbers_of(saved: SavedCheckpoint, suite: Suite, asked: Sequence[Subtask], store: Store) -> Numbers:
    """A checkpoint's numbers, when the results of all its subtasks are in `store`."""
    numbers = {}
    for spec in suite.tasks:
        found = {one.name: _read(store, one.file, spec) for one in asked if one.spec == spec}
        numbers[spec.task] = task_number(spec, found)
    mean = suite_number([numbers[spec.task] for spec in suite.tasks if spec.in_mean])
    checkpoint = canonical_json.digest(saved.commit)
    return Numbers(saved.store.url, saved.name, saved.commit["step"], checkpoint, numbers, mean)


def known_tasks() -> Any:
    """The harness's `TaskManager`, which knows its own tasks and ours; making it reads some thousand files."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(Path(__file__).parent / "ours"))


def subtasks(manager: Any, name: str) -> Iterator[str]:
    """The tasks of a task, a group or a tag, without opening their data."""
    entry = manager.task_index.get(name)
    if entry is None:
        raise UserError(f"lm-evaluation-harness has no task {name}")
    if entry.kind.name == "TAG":
        members: list[Any] = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        named: Any = (entry.cfg or {}).get("task") or []
        members = [named] if isinstance(named, str) else named
    else:
        yield name
        return
    for member in members:
        if not isinstance(member, str):
            raise UserError(f"{name} defines tasks within itself: name them one by one")
        yield from subtasks(manager, member)


def harness_config(manager: Any, spec: TaskSpec, name: str) -> dict[str, Any]:
    """What a file for the harness says of the subtask: its name, and all that is replaced."""
    repaired = REPAIRS.get(name, {})
    stock = {"include": str(manager.task_index[name].yaml_path), "task": name}
    if spec.files is None:
        return {**stock, **repaired} if repaired else {"task": name}
    subset = str((manager.task_index[name].cfg or {}).get("dataset_name") or "")
    files = {split: file.replace("{subset}", subset) for split, file in spec.files.items()}
    if absent := [file for file in files.values() if not Path(file).is_file()]:
        raise UserError(f"{name}: {absent[0]} is not there")
    return {
        **stock,
        **repaired,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }


@contextmanager
def known_to_harness(config: dict[str, Any]) -> Iterator[str]:
    """By what name the harness knows the task of `harness_config`: its own, or that of a file that is there now."""
    with TemporaryDirectory() as folder:
        overlay = Path(folder) / f"{config['task']}.yaml"
        overlay.write_text(yaml.safe_dump(config), encoding="utf-8")
        yield str(overlay) if "include" in config else config["task"]


def _data_digests(config: dict[str, Any]) -> dict[str, str]:
    """{split: sha256} of local files; of the hub's data there is none to be had before it is opened."""
    files = config.get("dataset_kwargs", {}).get("data_files", {})
    return {split: canonical_json.sha256(Path(file).read_bytes()) for split, file in files.items()}


def _run(manager: Any, model: Any, config: dict[str, Any], spec: TaskSpec, questions: int | None) -> dict[str, Any]:
    import lm_eval

    name = config["task"]
    try:
        with known_to_harness(config) as known:
            answer = lm_eval.simple_evaluate(
                model,
                tasks=[known],
                num_fewshot=spec.shots,
                limit=questions,
                task_manager=manager,
                bootstrap_iters=0,
                log_samples=False,
            )
    except (OSError, ValueError, KeyError) as error:  # what `datasets` says of a split, a field or a host
        raise UserError(f"{name}: {type(error).__name__}: {one_line(error)}") from None
    metrics = {key: value for key, value in answer["results"][name].items() if isinstance(value, int | float)}
    return {
        "metrics": metrics,
        "n": answer["n-samples"][name]["effective"],
        "version": answer["versions"].get(name),
        "harness": lm_eval.__version__,
    }


def _read(store: Store, file: str, spec: TaskSpec) -> tuple[float, int]:
    """(the mean of the suite's metrics, how many questions)."""
    try:
        result = json.loads(store.read(file))
        metrics, count = result["metrics"], int(result["n"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{store.url}/{file}", f"is no result of ours ({one_line(error)}): remove it") from None
    values = []
    for metric in spec.metrics:
        key = metric if "," in metric else f"{metric},none"
        if key not in metrics:
            known = ", ".join(sorted(name for name in metrics if "stderr" not in name and "," in name))
            raise UserError(f"{spec.task} has no metric {metric}: it has {known}")
        values.append(metrics[key])
    return sum(values) / len(values), count
