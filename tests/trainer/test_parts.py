"""The small parts of the trainer: what a recipe says, how the rate goes, what an update is, who is called slow."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bamba_data.errors import RecipeError, TooManyBadSteps, UserError
from tests.trainer.small import model, packed
from tests.trainer.synthetic import Synthetic
from trainer.anomaly import BadSteps, LossSpikes, StepRange
from trainer.config import RECIPES, Guard, Optimizer, Schedule, load_recipe
from trainer.data.batch import Batch
from trainer.distributed.consistency import differences, saved_recipe
from trainer.distributed.fsdp import World
from trainer.evaluation import losses_by_source, text_rows
from trainer.observe import health
from trainer.observe.health import DeviceReport, find_faults
from trainer.observe.stragglers import StragglerDetector
from trainer.optim.adamw import AdamW
from trainer.optim.lr_schedule import learning_rate
from trainer.step import StepMetrics

CPU = World(0, 1, torch.device("cpu"), None)  # type: ignore[arg-type]


# ---- recipes


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECIPES.glob("*.yaml"))])
def test_every_recipe_that_ships_is_valid_and_is_called_by_its_file(name: str) -> None:
    assert load_recipe(name).name == name


def test_phase_1_is_as_published() -> None:
    recipe = load_recipe("bamba-9b-phase1")
    assert recipe.data.weights is not None
    assert len(recipe.data.weights) == 19 and sum(recipe.data.weights.values()) == 10_000
    assert recipe.data.batch_rows * recipe.data.row_tokens == 1_572_864
    assert recipe.model.parameters == 9_780_235_392
    assert learning_rate(recipe.schedule, recipe.schedule.steps) == pytest.approx(1e-5)


def test_a_recipe_s_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nosuch: no such recipe; these ship with us: bamba-1\.8b, .*tiny-cpu"):
        load_recipe("nosuch")
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"mine\.yaml: cannot be read"):
        load_recipe(str(file))


@pytest.mark.parametrize(("name", "parameters"), [("bamba-1.8b", 1.8e9), ("bamba-3b", 3e9), ("transformer-3b", 3e9)])
def test_the_ablation_sizes_are_what_their_names_say(name: str, parameters: float) -> None:
    assert load_recipe(name).model.parameters == pytest.approx(parameters, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.layer=3", "model.layer: "),
        ("schedule.end_lr=1", "end_lr: 1.0 is above peak_lr"),
        ("compute.dtype=float16", "compute.dtype: "),
        ("model.attention_layers=[40]", r"\[40\] are not among the layers"),
        ("data.batch_rows=many", "data.batch_rows: "),
    ],
)
def test_a_mistake_in_a_recipe_is_named(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("tiny-cpu", [change])


def test_only_what_decides_the_learning_is_in_its_digest() -> None:
    plain = load_recipe("tiny-cpu").learned_digest()
    for change in ("compute.micro_rows=1", "checkpoints.every_steps=7", "data.workers=3", "data.urls=[x]"):
        assert load_recipe("tiny-cpu", [change]).learned_digest() == plain
    for change in ("schedule.steps=7", "optimizer.beta1=0.8", "data.seed=3", "seed=2", "model.norm_eps=1.0e-6"):
        assert load_recipe("tiny-cpu", [change]).learned_digest() != plain


def test_every_field_that_differs_is_found_at_any_depth() -> None:
    then = {"model": {"layers": 4, "vocab_size": 8}, "seed": 1, "start_from": None}
    now = {"model": {"layers": 5, "vocab_size": 8}, "seed": 1, "start_from": "there", "new": 2}
    found = [("model.layers", 4, 5), ("start_from", None, "there"), ("new", None, 2)]
    assert differences(then, now) == found
    assert differences(then, then) == []


def test_a_checkpoint_of_a_recipe_that_is_not_known_any_more_names_the_field() -> None:
    plain = load_recipe("tiny-cpu").model_dump(mode="json")
    assert saved_recipe({"recipe": plain}) == load_recipe("tiny-cpu")
    with pytest.raises(UserError, match=r"does not know \(data\.colour\): use the version that saved them"):
        saved_recipe({"recipe": {**plain, "data": {**plain["data"], "colour": "red"}}})


# ---- schedule


@pytest.mark.parametrize("step", [1, 100, 1999, 2000, 2001, 500_000, 1_280_000])
def test_phase_1_by_the_code_follows_the_published_formula(step: int) -> None:
    steps = 1_280_000
    published = min(
        1 - (1 - min(step, 2000) / 2000) ** 2, 0.1 + 0.5 * 0.9 * (1 + math.cos(min(step, steps) / steps * math.pi))
    )
    schedule = load_recipe("bamba-9b-phase1-code").schedule
    assert learning_rate(schedule, step) == pytest.approx(3e-4 * published)


def test_a_linear_anneal_ends_at_nothing() -> None:
    schedule = load_recipe("bamba-9b-anneal-code").schedule
    assert learning_rate(schedule, schedule.steps // 2) == pytest.approx(1e-5)
    assert learning_rate(schedule, schedule.steps) == 0


def test_without_a_decay_the_peak_stays() -> None:
    schedule = Schedule(steps=10, peak_lr=1e-3, end_lr=0.0, warmup="linear", warmup_steps=4, decay="none")
    rates = [learning_rate(schedule, step) for step in range(1, 11)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, *[1e-3] * 7])


# ---- optimizer


def test_updates_are_those_of_torch_with_clipping_and_decay_of_matrices_only() -> None:
    ours, theirs = model(), model()
    rule = Optimizer(clip_norm=0.5)
    optimizer = AdamW(ours, rule, CPU)
    matrices = [p for n, p in theirs.named_parameters() if p.dim() == 2 and not n.endswith("conv_weight")]
    rest = [p for n, p in theirs.named_parameters() if not (p.dim() == 2 and not n.endswith("conv_weight"))]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    for number in range(3):
        ours.losses(*packed([60], seed=number))[0].backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert a.grad is not None
            b.grad = a.grad.clone()
        wanted = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        norm = optimizer.gradient_norm()
        torch.testing.assert_close(norm, wanted)
        for group in reference.param_groups:
            group["lr"] = 1e-2 / (number + 1)
        optimizer.update(1e-2 / (number + 1), norm, torch.tensor(True))
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_an_unhealthy_step_leaves_weights_moments_and_the_count_as_they_were() -> None:
    ours = model()
    optimizer = AdamW(ours, Optimizer(), CPU)
    before = [p.detach().clone() for p in ours.parameters()]
    (ours.losses(*packed([60]))[0] * torch.nan).backward()
    norm = optimizer.gradient_norm()
    assert norm.isnan()
    optimizer.update(1e-2, norm, torch.isfinite(norm))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), before, strict=True))
    assert all(not tensor.any() for _, tensor in optimizer.state())


# ---- batches


def test_micro_batches_are_of_one_shape_and_hold_every_row_once() -> None:
    batch = Batch.of(next(iter(Synthetic(24, 5, 0, 1, 64))))
    parts = batch.micro(2)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.cat([part.row for part in parts]).tolist() == [0, 1, 2, 3, 4, -1]
    assert sum(part.targets for part in parts) == batch.targets
    assert (parts[-1].labels[1] == -100).all()


# ---- guards


def outcome(loss: float, healthy: bool = True) -> StepMetrics:
    return StepMetrics(loss, 1.0, healthy, False, False, [loss], [1])


def test_bad_steps_are_counted_until_there_are_too_many() -> None:
    guard = BadSteps(Guard(max_bad_steps=2))
    assert not guard.see(1, outcome(1.0), "rows 0 to 3")
    assert guard.see(2, outcome(math.nan, healthy=False), "rows 4 to 7")
    assert guard.see(3, outcome(math.nan, healthy=False), "rows 8 to 11")
    with pytest.raises(TooManyBadSteps, match=r"step 4: .* on rows 12 to 15"):
        guard.see(4, outcome(math.nan, healthy=False), "rows 12 to 15")


def test_a_spike_is_a_run_of_high_losses_and_one_high_loss_is_none() -> None:
    spikes = LossSpikes(Guard(spike_sigmas=5.0, spike_window=8, spike_steps=2))
    calm = [2.0, 2.1, 1.9, 2.0, 2.05, 1.95, 2.0, 2.1]
    for step, loss in enumerate(calm):
        assert spikes.see(step, loss) is None
    assert spikes.see(8, 9.0) is None
    assert spikes.see(9, 2.0) is None
    assert spikes.see(10, 9.0) is None
    assert spikes.see(11, 8.0) == StepRange(10, 11)


# ---- health


def test_the_time_of_work_is_the_median_without_what_warms_up_and_what_is_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, taken, waits = [0.0], iter([500.0, 400.0, 3.0, 1.0, 8.0]), []

    def pass_seconds(seconds: float) -> None:
        clock[0] += seconds

    def barrier() -> None:
        pass_seconds(70.0)
        waits.append(clock[0])

    monkeypatch.setattr(health, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    cpu = torch.device("cpu")
    assert health.median_seconds(lambda: pass_seconds(next(taken)), cpu, repeats=3, before=barrier) == 3.0
    assert len(waits) == 5 and next(taken, None) is None
    assert health.median_seconds(lambda: pass_seconds(2.0), cpu) == 2.0


def test_a_rank_is_called_slow_by_what_it_is_slow_at() -> None:
    fine = [DeviceReport(rank, "gpu", 700.0, 3000.0, 100.0) for rank in range(3)]
    slow = DeviceReport(3, "gpu", 700.0, 2000.0, 100.0)
    sick = DeviceReport(4, "gpu", 700.0, 3000.0, 100.0, ["1 uncorrected ECC errors since the last reboot"])
    assert find_faults([*fine, slow, sick]) == {
        3: ["memory_gb_per_second 2,000.0, the median is 3,000.0"],
        4: ["1 uncorrected ECC errors since the last reboot"],
    }


def test_ranks_on_cpus_are_not_compared_for_processes_share_them() -> None:
    assert find_faults([DeviceReport(0, "cpu", 0.1, 10.0, 1.0), DeviceReport(1, "cpu", 0.05, 5.0, 0.5)]) == {}


def test_what_nvml_could_not_say_is_no_fault() -> None:
    assert find_faults([DeviceReport(0, "gpu", 700.0, 3000.0, 100.0, notes=["NVML did not answer: no driver"])]) == {}


def test_a_rank_is_named_when_its_device_was_slow_three_times_on_end() -> None:
    detector = StragglerDetector(World(0, 3, torch.device("cpu"), None))  # type: ignore[arg-type]
    slow, idle = [0.001, 0.001, 0.002], [0.0, 0.0, 0.0]
    assert detector.judge(slow, idle) == detector.judge(slow, idle) == []
    assert detector.judge([0.001, 0.001, 0.001], idle) == []
    assert detector.judge(slow, idle) == detector.judge(slow, idle) == []
    assert detector.judge(slow, idle) == ["rank 2 is slow: a product takes it 2.00 ms, others 1.00 ms"]


def test_a_rank_is_named_when_it_waited_for_rows_longer_than_others_three_times_on_end() -> None:
    detector = StragglerDetector(World(0, 3, torch.device("cpu"), None))  # type: ignore[arg-type]
    same, waits = [0.001] * 3, [0.4, 0.0, 0.01]
    assert detector.judge(same, [0.4, 0.4, 0.4]) == []  # all of them: no rank is slow, the storage is
    assert detector.judge(same, waits) == detector.judge(same, waits) == []
    assert detector.judge(same, waits) == ["rank 0 is slow: it waits 40% of its time for rows, others 1%"]


# ---- looking at a model


def test_losses_by_source_are_means_over_the_real_targets_of_each() -> None:
    ours = model()
    feed = Synthetic(24, 5, 0, 1, 64)
    batch = next(iter(feed))
    found = losses_by_source(ours, [batch], feed.sources, torch.device("cpu"), micro_rows=2)
    for source, name in enumerate(feed.sources):
        mine = batch["source"] == source
        given = (batch[key][mine] for key in ("input_ids", "seq_idx", "position_ids", "labels"))
        total, _ = ours.losses(*given)
        targets = int((batch["labels"][mine] >= 0).sum())
        assert found[name] == (pytest.approx(total.item() / targets, rel=1e-5), targets)


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_loss_of_a_text_is_of_every_token_but_the_first(ranks: int) -> None:
    ours = model()
    ids = packed([100])[0][0].tolist()
    shares = [list(text_rows(ids, 40, rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    every = [row for share in shares for row in share]
    loss, count = losses_by_source(ours, every, ["text"], torch.device("cpu"), micro_rows=2)["text"]
    assert count == 99
    assert loss == pytest.approx(math.log(331), rel=0.1)
    assert sorted(row["row"].item() for row in every if row["row"] >= 0) == [0, 1, 2]
