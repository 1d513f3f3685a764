"""What a suite's number is, and that sequences packed into one row do not see each other."""

from pathlib import Path

import pytest
import torch

from bamba_data.errors import UserError
from bamba_data.extras import EXTRAS
from tests.trainer.small import CONFIG, model
from trainer.tasks.scoring import Continuation, score
from trainer.tasks.suites import SUITES, TaskSpec, over_chance, suite_number, suite_of, task_number

#: Bamba-9B as its authors published it, by task, in per cent: blog/bamba.md in github.com/foundation-model-stack/bamba.
PUBLISHED_V1 = [60.77, 63.23, 36.77, 81.8, 47.6, 82.26, 49.21, 76.87]
PUBLISHED_V2 = [17.53, 17.4, 4.14, 15.16, 1.66, 9.59]


def random_ids(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(0, CONFIG.vocab_size, (count,), generator=generator).tolist()


def test_packed_scores_are_those_of_each_sequence_alone_in_any_batch() -> None:
    ours, generator = model(), torch.Generator().manual_seed(3)
    lengths = [(1, 1), (5, 3), (40, 2), (3, 30), (17, 1), (5, 9), (40, 2)]
    asked = [Continuation(random_ids(a, generator), random_ids(b, generator)) for a, b in lengths]
    for batch, row_tokens in [(1, 4096), (3, 4096), (8, 4096), (8, 45)]:
        for one, found in zip(asked, score(ours, asked, row_tokens, batch), strict=True):
            row = torch.tensor([[*one.context, *one.continuation]])
            with torch.no_grad():
                logits = ours.logits(row, torch.zeros_like(row).int(), torch.arange(row.shape[1])[None])[0]
            wanted = torch.tensor(one.continuation)
            steps = logits[len(one.context) - 1 : -1]
            alone = steps.log_softmax(-1).gather(1, wanted[:, None]).sum()
            assert found.log_probability == pytest.approx(float(alone), abs=1e-4)
            assert found.is_greedy == bool((steps.argmax(-1) == wanted).all())


def test_the_likeliest_continuation_is_called_greedy() -> None:
    ours, context = model(), [3, 1, 4, 1, 5]
    row = torch.tensor([context])
    with torch.no_grad():
        best = int(ours.logits(row, torch.zeros_like(row).int(), torch.arange(5)[None])[0, -1].argmax())
    right, wrong = score(ours, [Continuation(context, [best]), Continuation(context, [best - 1])], 64, 2)
    assert right.is_greedy and not wrong.is_greedy


def test_a_long_sequence_loses_its_oldest_tokens_first() -> None:
    assert Continuation([1, 2, 3, 4], [5, 6]).cut(4) == Continuation([2, 3, 4], [5, 6])
    assert Continuation([1, 2], [3, 4, 5, 6, 7]).cut(3) == Continuation([4], [5, 6, 7])


def test_the_published_cells_make_the_published_means() -> None:
    assert len(PUBLISHED_V1) == len(SUITES["leaderboard-v1"].tasks)
    assert len(PUBLISHED_V2) == len(SUITES["leaderboard-v2"].tasks)
    assert round(suite_number(PUBLISHED_V1), 2) == 62.31
    assert round(suite_number(PUBLISHED_V2), 2) == 10.91


def test_chance_is_taken_off_each_subtask_before_the_mean() -> None:
    spec = TaskSpec(task="group", metrics=["acc"], choices={"two": 2, "five": 5})
    assert task_number(spec, {"two": (0.75, 10), "five": (0.2, 1000)}) == pytest.approx(0.25)
    assert over_chance(0.1, 4) == 0.0
    with pytest.raises(UserError, match="group: choices does not name ten"):
        task_number(spec, {"ten": (0.5, 1)})


def test_a_group_by_size_counts_its_questions() -> None:
    spec = TaskSpec(task="group", metrics=["acc"], by_size=True)
    assert task_number(spec, {"small": (1.0, 1), "large": (0.0, 3)}) == 0.25
    assert task_number(spec.model_copy(update={"by_size": False}), {"small": (1.0, 1), "large": (0.0, 3)}) == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: [{task: piqa, metrics: [acc], shot: 5}]", "tasks.0.shot: Extra inputs"),
        ("tasks: []", "at least 1 item"),
        ("tasks: [{task: piqa, metrics: [acc]}, {task: piqa, metrics: [acc]}]", "piqa stands there twice"),
        ("tasks: [{task: piqa, metrics: [acc], in_mean: false}]", "no task is in_mean"),
        ("tasks: [", "not YAML"),
    ],
)
def test_a_suite_with_a_fault_is_refused_by_its_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        suite_of(str(tmp_path / "suite.yaml"))


def test_safety_is_what_bamba_was_asked_and_the_share_of_stereotypes_is_not_in_its_mean() -> None:
    specs = {spec.task: spec for spec in SUITES["safety"].tasks}
    assert list(specs) == ["bamba_popqa", "toxigen", "bamba_bbq", "crows_pairs_english"]
    assert all(spec.shots == 5 for spec in specs.values())
    assert [name for name, spec in specs.items() if not spec.in_mean] == ["crows_pairs_english"]


def test_a_suite_says_what_its_tasks_import() -> None:
    assert suite_of("leaderboard-v1").packages == ["lm_eval"]
    assert suite_of("leaderboard-v2").packages == ["lm_eval", "langdetect", "math_verify"]
    assert {EXTRAS[package] for package in suite_of("leaderboard-v2").packages} == {"benchmark"}


def test_an_unknown_suite_names_those_there_are() -> None:
    with pytest.raises(UserError, match="neither a file nor one of leaderboard-v1, leaderboard-v2"):
        suite_of("leaderboard-v3")
