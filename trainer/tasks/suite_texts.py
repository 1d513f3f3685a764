"""The texts that a suite asks, as a file that `bamba-data contaminated --against` reads.

    bamba-data model suite-texts --suite leaderboard-v1 --out asked.jsonl

A line a question: the suite's name of its task, and all texts of the question's record (the question, its answers,
what it is about), a line each, as the data set has them: no prompt, no examples. Texts of one word are left out, for
they are names of subjects, letters and keys.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bamba_data.errors import UserError, one_line
from bamba_data.terminal import say

from .benchmark import harness_config, known_to_harness, subtasks
from .suites import Suite


def write_suite_texts(suite: Suite, out: Path, manager: Any) -> dict[str, int]:
    """Write the texts of all questions that the suite's numbers are of; how many each task has.

    Args:
        suite: Its tasks, perhaps of local files.
        out: A new file, which is whole or not there.
        manager: Of `known_tasks`.

    Raises:
        UserError: A task is unknown, its data cannot be had, or no question of it has a text; `out` is there already.
    """
    if out.exists():
        raise UserError(f"--out {out}: is there already; remove it, or name another")
    found: dict[str, int] = {}
    part = out.with_name(f"{out.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for spec in suite.tasks:
            texts = 0
            for name in subtasks(manager, spec.task):
                say(f"{name} …")
                for record in _questions(manager, harness_config(manager, spec, name)):
                    if text := text_of(record):
                        file.write(json.dumps({"task": spec.task, "text": text}, ensure_ascii=False) + "\n")
                        texts += 1
            if not texts:
                raise UserError(f"{spec.task}: none of its questions has a text")
            found[spec.task] = texts
    part.replace(out)
    return found


def text_of(record: Any) -> str:
    """All texts of more than a word in a question's record, in its order, a line each; "" if it has none."""
    return "\n".join(dict.fromkeys(text for text in _texts(record) if len(text.split()) > 1))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _questions(manager: Any, config: dict[str, Any]) -> Iterator[Any]:
    """The records of a task that the harness counts: of its test part, or, without one, of its validation part."""
    from lm_eval.tasks import get_task_dict

    name = config["task"]
    try:
        with known_to_harness(config) as known:
            for task in _tasks(get_task_dict([known], manager)):
                yield from task.eval_docs
    except (OSError, ValueError, KeyError) as error:  # what `datasets` says of a split, a field or a host
        raise UserError(f"{name}: {type(error).__name__}: {one_line(error)}") from None


def _tasks(found: Any) -> Iterator[Any]:
    """The tasks in what the harness gives, which may be nested by group."""
    for value in found.values():
        if isinstance(value, dict):
            yield from _tasks(value)
        else:
            yield value
