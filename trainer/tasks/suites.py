"""Suites of tasks, with their shots and how a suite's one number is made; or a file that says the same.

    suite_of("leaderboard-v1")          # Open LLM Leaderboard, first version
    suite_of("tasks.yaml")              # a file: a list `tasks`, each as TaskSpec

A task may bring its data as local files, in the form of the hub's own dataset: nothing is fetched then.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bamba_data.errors import UserError, first_fault

#: What a task of the harness imports that the harness itself does not ask for.
IMPORTED = {
    **dict.fromkeys(("ifeval", "leaderboard_ifeval"), "langdetect"),
    **dict.fromkeys(("leaderboard_math_hard", "minerva_math"), "math_verify"),
}


class TaskSpec(BaseModel):
    """A task or a group of lm-evaluation-harness.

    Attributes:
        task: Its name in the harness.
        shots: Solved examples before the question; None leaves what the task says.
        metrics: The metrics of the harness whose mean is the task's number, such as `acc_norm` or
            `exact_match,strict-match` (with its filter).
        by_size: The mean of a group's subtasks is by their questions; else each counts once.
        choices: To how many choices the number is set against chance, of a whole task or by its subtasks' names; with
            it 0 is chance and 1 is all.
        files: {split: file of JSON lines}; `{subset}` in it is the hub's name of a subtask's part.
        in_mean: It counts in the suite's mean; not so where more is not better.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    metrics: list[str] = Field(min_length=1)
    shots: int | None = Field(default=None, ge=0)
    by_size: bool = False
    choices: int | dict[str, int] | None = None
    files: dict[str, str] | None = None
    in_mean: bool = True


class Suite(BaseModel):
    """Tasks whose mean is the suite's number."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tasks: list[TaskSpec] = Field(min_length=1)

    @property
    def packages(self) -> list[str]:
        """What must be installed to ask it."""
        return ["lm_eval", *(IMPORTED[spec.task] for spec in self.tasks if spec.task in IMPORTED)]

    @model_validator(mode="after")
    def _has_a_mean(self) -> "Suite":
        if not any(spec.in_mean for spec in self.tasks):
            raise ValueError("no task is in_mean: a suite's number is the mean of some")
        return self


#: How many answers each subtask of BIG-Bench Hard offers, as the second leaderboard published them.
BBH_CHOICES = {
    **dict.fromkeys(("boolean_expressions", "causal_judgement", "formal_fallacies", "hyperbaton", "navigate"), 2),
    **dict.fromkeys(("snarks", "sports_understanding", "web_of_lies"), 2),
    **dict.fromkeys(("disambiguation_qa", "logical_deduction_three_objects"), 3),
    **dict.fromkeys(("tracking_shuffled_objects_three_objects",), 3),
    "temporal_sequences": 4,
    **dict.fromkeys(("logical_deduction_five_objects", "penguins_in_a_table"), 5),
    "tracking_shuffled_objects_five_objects": 5,
    **dict.fromkeys(("date_understanding", "movie_recommendation", "ruin_names"), 6),
    "salient_translation_error_detection": 6,
    **dict.fromkeys(("logical_deduction_seven_objects", "tracking_shuffled_objects_seven_objects"), 7),
    "geometric_shapes": 11,
    "reasoning_about_colored_objects": 18,
    "object_counting": 19,
}
MUSR_CHOICES = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}


def _named(prefix: str, choices: Mapping[str, int]) -> dict[str, int]:
    return {f"{prefix}_{name}": count for name, count in choices.items()}


SUITES = {
    "leaderboard-v1": Suite(
        tasks=[
            TaskSpec(task="mmlu", metrics=["acc"], shots=5, by_size=True),
            TaskSpec(task="arc_challenge", metrics=["acc_norm"], shots=25),
            TaskSpec(task="gsm8k", metrics=["exact_match,strict-match"], shots=5),
            TaskSpec(task="hellaswag", metrics=["acc_norm"], shots=10),
            TaskSpec(task="openbookqa", metrics=["acc_norm"], shots=5),
            TaskSpec(task="piqa", metrics=["acc"], shots=5),
            TaskSpec(task="truthfulqa_mc2", metrics=["acc"], shots=0),
            TaskSpec(task="winogrande", metrics=["acc"], shots=5),
        ]
    ),
    # The shots stand in the harness's own leaderboard tasks.
    "leaderboard-v2": Suite(
        tasks=[
            TaskSpec(task="leaderboard_mmlu_pro", metrics=["acc"], choices=10),
            TaskSpec(task="leaderboard_bbh", metrics=["acc_norm"], choices=_named("leaderboard_bbh", BBH_CHOICES)),
            TaskSpec(task="leaderboard_gpqa", metrics=["acc_norm"], by_size=True, choices=4),
            TaskSpec(task="leaderboard_ifeval", metrics=["prompt_level_strict_acc", "inst_level_strict_acc"]),
            TaskSpec(task="leaderboard_math_hard", metrics=["exact_match"]),
            TaskSpec(task="leaderboard_musr", metrics=["acc_norm"], choices=_named("leaderboard_musr", MUSR_CHOICES)),
        ]
    ),
    # What Bamba-9B was asked of knowledge, hate and bias. The tasks `bamba_…` are ours (trainer/tasks/ours). Of pairs
    # of sentences half is the best a model can do, so that share is shown and not in the mean.
    "safety": Suite(
        tasks=[
            TaskSpec(task="bamba_popqa", metrics=["acc"], shots=5),
            TaskSpec(task="toxigen", metrics=["acc"], shots=5),
            TaskSpec(task="bamba_bbq", metrics=["acc"], shots=5),
            TaskSpec(task="crows_pairs_english", metrics=["pct_stereotype"], shots=5, in_mean=False),
        ]
    ),
}


def suite_of(name: str) -> Suite:
    """One of `SUITES`, or the file of this name, whose `files` are meant from its own folder.

    Raises:
        UserError: There is no such suite or file, or a field of it is wrong.
    """
    if name in SUITES:
        return SUITES[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--suite {name}: neither a file nor one of {', '.join(SUITES)}")
    try:
        found = Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"--suite {name}: {first_fault(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--suite {name}: not YAML ({' '.join(str(error).split())[:120]})") from None
    names = [spec.task for spec in found.tasks]
    if twice := {task for task in names if names.count(task) > 1}:
        raise UserError(f"--suite {name}: {', '.join(sorted(twice))} stands there twice")
    return Suite(tasks=[_from_folder(spec, path.parent) for spec in found.tasks])


def _from_folder(spec: TaskSpec, folder: Path) -> TaskSpec:
    if spec.files is None:
        return spec
    absolute = {split: str((folder / file).resolve()) for split, file in spec.files.items()}
    return spec.model_copy(update={"files": absolute})


def over_chance(value: float, choices: int | None) -> float:
    """`value` with chance at 0 and all right at 1; below chance is 0, as the second leaderboard has it."""
    if choices is None:
        return value
    return max(0.0, (value - 1 / choices) / (1 - 1 / choices))


def task_number(spec: TaskSpec, subtasks: Mapping[str, tuple[float, int]]) -> float:
    """A task's one number, from {subtask: (mean of its metrics, questions)}.

    Where each subtask has its own chance it is taken off there, else from the mean. `UserError` for a subtask without.
    """
    choices = spec.choices
    if isinstance(choices, dict):
        if unknown := subtasks.keys() - choices.keys():
            raise UserError(f"{spec.task}: choices does not name {', '.join(sorted(unknown))}")
        subtasks = {name: (over_chance(value, choices[name]), n) for name, (value, n) in subtasks.items()}
    weights = [n if spec.by_size else 1 for _, n in subtasks.values()]
    mean = sum(value * weight for (value, _), weight in zip(subtasks.values(), weights, strict=True)) / sum(weights)
    return over_chance(mean, choices if isinstance(choices, int) else None)


def suite_number(numbers: Sequence[float]) -> float:
    """The mean of the tasks that are in it."""
    return sum(numbers) / len(numbers)
