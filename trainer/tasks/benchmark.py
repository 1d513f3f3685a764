"""A checkpoint's numbers on a suite: `bamba-data model benchmark CHECKPOINT… --suite SUITE --out FOLDER`.

Each subtask's result is a file in the folder as soon as it is there, named by what it was asked of: the checkpoint, the
task with its shots, and the bytes of local data. The same command again computes only what is missing.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from bamba_data import canonical_json
from bamba_data.errors import CorruptCheckpoint, UserError, one_line
from bamba_data.terminal import say

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer
from .comparison import Numbers
from .suites import Suite, TaskSpec, suite_number, task_number

FORMAT = "bamba-benchmark/1"

#: {subtask: what stands in the place of the harness's own}. ToxiGen's target is a number of numpy, which 0.4.13 refuses
#: in the examples before a question; the same in a template gives a plain number.
REPAIRS = {"toxigen": {"doc_to_target": "{{ ((toxicity_ai + toxicity_human) > 5.5) | int }}"}}


def benchmark(
    saved: SavedCheckpoint,
    tokenizer: RunTokenizer,
    suite: Suite,
    out: Path,
    batch: int,
    questions: int | None,
    manager: Any,
) -> Numbers:
    """A checkpoint's numbers, from what is in `out` and what must still be computed.

    Args:
        out: A folder of results, made if it is not there.
        questions: So many of each subtask, for a look; None for all.
        manager: Of `known_tasks`; one serves many checkpoints.

    Raises:
        UserError: A task is unknown, its data cannot be had, or it lacks a metric that the suite names.
    """
    from .harness_model import CheckpointModel

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plan = {spec.task: list(_subtasks(manager, spec.task)) for spec in suite.tasks}
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = canonical_json.digest(saved.commit)
    model: CheckpointModel | None = None
    numbers = {}
    for spec in suite.tasks:
        found = {}
        for name in plan[spec.task]:
            config = _config(manager, spec, name)
            asked: dict[str, Any] = {
                "checkpoint": checkpoint,
                "task": name,
                "shots": spec.shots,
                "questions": questions,
            }
            asked |= {"tokenizer": canonical_json.sha256(tokenizer.data), "data": _data_digests(config)}
            place = out / f"{name}-{canonical_json.digest(asked)[:12]}.json"
            if not place.exists():
                say(f"{name} …")
                model = model or CheckpointModel(saved, tokenizer, batch)
                _write(place, {"format": FORMAT, **asked, **_run(manager, model, config, spec, questions)})
            found[name] = _read(place, spec)
        numbers[spec.task] = task_number(spec, found)
    mean = suite_number([numbers[spec.task] for spec in suite.tasks if spec.in_mean])
    return Numbers(saved.store.url, saved.name, saved.commit["step"], checkpoint, numbers, mean)


def known_tasks() -> Any:
    """The harness's `TaskManager`, which knows its own tasks and ours; making it reads some thousand files."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(Path(__file__).parent / "ours"))


def _subtasks(manager: Any, name: str) -> Iterator[str]:
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
        yield from _subtasks(manager, member)


def _config(manager: Any, spec: TaskSpec, name: str) -> dict[str, Any]:
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


def _data_digests(config: dict[str, Any]) -> dict[str, str]:
    """{split: sha256} of local files; of the hub's data there is none to be had before it is opened."""
    files = config.get("dataset_kwargs", {}).get("data_files", {})
    return {split: canonical_json.sha256(Path(file).read_bytes()) for split, file in files.items()}


def _run(manager: Any, model: Any, config: dict[str, Any], spec: TaskSpec, questions: int | None) -> dict[str, Any]:
    import lm_eval

    name = config["task"]
    try:
        with TemporaryDirectory() as folder:
            overlay = Path(folder) / f"{name}.yaml"
            overlay.write_text(yaml.safe_dump(config), encoding="utf-8")
            answer = lm_eval.simple_evaluate(
                model,
                tasks=[str(overlay) if "include" in config else name],
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


def _write(place: Path, result: dict[str, Any]) -> None:
    part = place.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(place)


def _read(place: Path, spec: TaskSpec) -> tuple[float, int]:
    """(the mean of the suite's metrics, how many questions)."""
    try:
        result = json.loads(place.read_bytes())
        metrics, count = result["metrics"], int(result["n"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(str(place), f"is no result of ours ({one_line(error)}): remove it") from None
    values = []
    for metric in spec.metrics:
        key = metric if "," in metric else f"{metric},none"
        if key not in metrics:
            known = ", ".join(sorted(name for name in metrics if "stderr" not in name and "," in name))
            raise UserError(f"{spec.task} has no metric {metric}: it has {known}")
        values.append(metrics[key])
    return sum(values) / len(values), count
