"""The mean of checkpoints is what plain torch computes, to the bit, and a checkpoint like any other."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BambaForCausalLM

from bamba.pipelines.cli import app
from bamba_data import exit_codes
from bamba_data.canonical_json import digest
from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import LocalStore
from tests.bamba_data.memory import grown
from tests.corpora import TOKENIZER
from tests.forking import typed
from tests.trainer.running import job, losses
from tests.trainer.small import CONFIG, model, saved
from trainer.checkpoint.average import average, shares_of
from trainer.checkpoint.commits import folder_name, folders
from trainer.checkpoint.locate import locate_checkpoint
from trainer.checkpoint.reader import SavedCheckpoint, write
from trainer.checkpoint.tokenizer import of_checkpoint
from trainer.hf import export
from trainer.hf.importing import imported
from trainer.hf.pushing import revision_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one shape: `alone` saved by one process after steps 4, 8 and 12, `three` by three ranks."""
    folder = tmp_path_factory.mktemp("runs")
    alone = job(folder / "alone", 1, "checkpoints.keep_last=3")
    assert alone.returncode == 0, alone.stderr
    three = job(folder / "three", 3, "seed=9")
    assert three.returncode == 0, three.stderr
    return folder


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset with a tokenizer."""
    out = tmp_path_factory.mktemp("trained") / "run"
    steps = ["--set", "schedule.steps=4", "--set", "checkpoints.every_steps=2"]
    done = typed("trainer", "--recipe", "tiny-cpu", "--data", dataset, "--out", out, *steps)
    assert done.returncode == 0, done.stderr
    return out


def plainly(parts: list[tuple[float, SavedCheckpoint]]) -> dict[str, torch.Tensor]:
    """The mean as anybody would write it."""
    keys = [key for key in parts[0][1].index if key.startswith("model.")]
    return {key: sum(share * one.tensor(key).double() for share, one in parts).float() for key in keys}


def pieces(one: SavedCheckpoint) -> dict[str, str]:
    return {key: entry["pieces"][0][-1] for key, entry in one.index.items()}


def test_the_mean_is_that_of_plain_torch_to_the_bit_over_runs_of_one_rank_and_of_three(
    runs: Path, tmp_path: Path
) -> None:
    names = [f"{runs}/alone@4", f"{runs}/alone@12", f"{runs}/three"]
    made = average(names, [1, 2, 5], str(tmp_path / "mean"))
    assert made.shares == [0.125, 0.25, 0.625] and made.is_new
    found = SavedCheckpoint(str(tmp_path / "mean"))
    wanted = plainly(list(zip(made.shares, map(SavedCheckpoint, names), strict=True)))
    assert found.index.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found.tensor(key).equal(value), key
    again = average(names, [0.1, 0.2, 0.5], str(tmp_path / "again"))
    assert pieces(SavedCheckpoint(again.url)) == pieces(found), "weights of the same proportions"
    assert not average(names, [1, 2, 5], str(tmp_path / "mean")).is_new, "it was there"


def test_where_it_came_from_stands_in_the_commit(runs: Path, tmp_path: Path) -> None:
    parents = [SavedCheckpoint(f"{runs}/alone@4"), SavedCheckpoint(f"{runs}/three@8")]
    average([f"{runs}/alone@4", f"{runs}/three@8"], None, str(tmp_path / "mean"))
    found = SavedCheckpoint(str(tmp_path / "mean"))
    assert found.commit["step"] == 8
    assert [one["share"] for one in found.commit["averaged"]] == [0.5, 0.5]
    assert [one["checkpoint"] for one in found.commit["averaged"]] == [digest(one.commit) for one in parents]
    assert [one["tokens"] for one in found.commit["averaged"]] == [one.commit["tokens"] for one in parents]
    export.export(found, tmp_path / "hf", torch.float32, None)
    card = (tmp_path / "hf" / "README.md").read_text()
    tokens = sum(parents[0].commit["tokens"].values())
    assert "An average of synthetic" in card and f"| 0.5 | 4 | {tokens:,} | `{digest(parents[0].commit)}`" in card
    assert revision_of(found).startswith("average-")


def test_a_run_begins_with_an_average_but_does_not_go_on_in_its_folder_nor_with_moments(
    runs: Path, tmp_path: Path
) -> None:
    mean = tmp_path / "mean"
    average([f"{runs}/alone@8", f"{runs}/alone@12"], None, str(mean))
    begun = job(tmp_path / "next", 2, f"start_from={mean}", "schedule.steps=2", "schedule.peak_lr=1.0e-3")
    assert begun.returncode == 0, begun.stderr
    assert "begins with the model of step 12" in begun.stderr
    assert losses(tmp_path / "next")[1] < losses(runs / "alone")[8]
    moments = job(tmp_path / "kept", 1, f"start_from={{run: {mean}, optimizer: keep}}")
    assert moments.returncode == 2 and "is an average of models, it has no moments to keep" in moments.stderr
    on = job(mean, 1)
    assert on.returncode == 2 and "the checkpoint here is an average of models, no run" in on.stderr


def test_an_average_is_evaluated_exported_and_written_from_by_the_commands(
    dataset: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean, text = tmp_path / "mean", tmp_path / "text"
    words = ["model", "average", f"{trained}@2", f"{trained}@4", "--weights", "1,3", "--out", str(mean)]
    assert exit_codes.run(app, words) == 0
    said = capsys.readouterr().out
    assert f"0.250000 of {trained}/checkpoints/step-000000002-" in said and "tensors, " in said
    held_out = typed("trainer.evaluate", mean, "--data", dataset, "--rows", "4", "--json")
    assert held_out.returncode == 0, held_out.stderr
    assert json.loads(held_out.stdout)["losses"]
    text.write_text("It is a truth universally acknowledged. " * 9)
    of_text = typed("trainer.evaluate", mean, "--text", text, "--json")
    assert of_text.returncode == 0, of_text.stderr
    exported = typed("trainer.export_hf", mean, tmp_path / "hf", "--dtype", "float32")
    assert exported.returncode == 0, exported.stderr
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").eos_token == "<|endoftext|>"
    theirs = BambaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    parts = [(0.25, SavedCheckpoint(f"{trained}@2")), (0.75, SavedCheckpoint(f"{trained}@4"))]
    wanted = plainly(parts)["model.embedding.weight"]
    assert theirs.get_input_embeddings().weight.equal(wanted)


def test_parents_that_held_out_other_documents_leave_no_plan_to_evaluate_by(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    steps = ["--set", "schedule.steps=2", "--set", "data.holdout=0.001"]
    done = typed("trainer", "--recipe", "tiny-cpu", "--data", dataset, "--out", other, *steps)
    assert done.returncode == 0, done.stderr
    made = average([str(trained), str(other)], None, str(tmp_path / "mean"))
    assert any("held out different documents" in note for note in made.notes)
    refused = typed("trainer.evaluate", tmp_path / "mean", "--data", dataset)
    assert refused.returncode == 2 and "does not say what was held out" in refused.stderr
    assert of_checkpoint(SavedCheckpoint(made.url)).eos == of_checkpoint(SavedCheckpoint(str(trained))).eos


def test_an_imported_model_s_tokenizer_goes_along_and_another_one_is_refused(tmp_path: Path) -> None:
    wide = CONFIG.model_copy(update={"vocab_size": 50_304})
    for seed in (1, 2):
        folder = tmp_path / f"hf{seed}"
        export.export(saved(tmp_path / f"run{seed}", model(seed, wide)), folder, torch.float32, None)
        (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
        imported(folder, str(tmp_path / f"in{seed}"))
    made = average([str(tmp_path / "in1"), str(tmp_path / "in2")], None, str(tmp_path / "mean"))
    assert made.notes == []
    assert of_checkpoint(SavedCheckpoint(made.url)).data == TOKENIZER.read_bytes()
    other = json.loads(TOKENIZER.read_bytes())
    other["added_tokens"][0]["content"] = "<|another|>"
    (tmp_path / "hf2" / "tokenizer.json").write_text(json.dumps(other))
    imported(tmp_path / "hf2", str(tmp_path / "in3"))
    with pytest.raises(UserError, match=r"in3/checkpoints/step-\S+ has another tokenizer \(sha256 "):
        average([str(tmp_path / "in1"), str(tmp_path / "in3")], None, str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"hidden_size": 32}, "its model.hidden_size is 32, there it is 64"), ({"norm_eps": 1e-6}, "norm_eps is 1e-06")],
)
def test_models_of_another_shape_or_setting_are_refused_by_name(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    saved(tmp_path / "a", model())
    saved(tmp_path / "b", model(config=CONFIG.model_copy(update=changed)))
    with pytest.raises(UserError, match=rf"/b/checkpoints/\S+ is another model than \S+/a/checkpoints/.*{message}"):
        average([str(tmp_path / "a"), str(tmp_path / "b")], None, str(tmp_path / "mean"))
    assert not (tmp_path / "mean").exists()


def test_another_set_of_tensors_a_value_that_is_not_finite_and_a_flipped_byte_are_refused(tmp_path: Path) -> None:
    first = saved(tmp_path / "a", model(1))
    about = {key: first.commit[key] for key in ("step", "recipe")}

    def beside(name: str, tensors: dict[str, torch.Tensor]) -> list[str]:
        write(LocalStore(tmp_path / name / "checkpoints"), folder_name(3, "1"), iter(tensors.items()), about)
        return [str(tmp_path / "a"), str(tmp_path / name)]

    tensors = {key: first.tensor(key) for key in first.index}
    fewer = beside("fewer", {key: value for key, value in tensors.items() if key != "model.head.weight"})
    with pytest.raises(UserError, match=r"its model\.head\.weight is 'not there', there it is \[331, 64\]"):
        average(fewer, None, str(tmp_path / "mean"))
    broken = {**tensors, "model.head.weight": tensors["model.head.weight"] / 0}
    with pytest.raises(UserError, match=r"nan/checkpoints/\S+: model\.head\.weight has values that are not finite"):
        average(beside("nan", broken), None, str(tmp_path / "mean"))
    pair = beside("flipped", {key: 2 * value for key, value in tensors.items()})
    file = next((tmp_path / "flipped").rglob("rank-*.bin"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="flipped"):
        average(pair, None, str(tmp_path / "mean"))
    file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    made = average(pair, None, str(tmp_path / "mean"))  # what the ones before left is in nobody's way
    assert SavedCheckpoint(made.url).tensor("model.head.weight").equal(1.5 * tensors["model.head.weight"])


def test_what_is_no_average_is_refused(runs: Path, tmp_path: Path) -> None:
    one, two, out = f"{runs}/alone@4", f"{runs}/alone@8", str(tmp_path / "mean")
    with pytest.raises(UserError, match="of two checkpoints or more"):
        average([one], None, out)
    with pytest.raises(UserError, match="has 3 numbers for 2 checkpoints"):
        average([one, two], [1, 1, 1], out)
    for weights in ([0.0, 1.0], [-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(UserError, match="is no weight"):
            average([one, two], weights, out)
    with pytest.raises(UserError, match="is given twice"):
        average([f"{runs}/alone@12", f"{runs}/alone"], None, out)
    with pytest.raises(UserError, match=r"three is in use: it holds step-000000012-"):
        average([one, two], None, str(runs / "three"))
    with pytest.raises(UserError, match=r"no checkpoint of step 5: it has 4, 8, 12"):
        locate_checkpoint(f"{runs}/alone@5")
    assert not (tmp_path / "mean").exists()
    assert exit_codes.run(app, ["model", "average", one, two, "--weights", "1;2", "--out", out]) == 2
    assert shares_of([2.0, 6.0], 2) == [0.25, 0.75]


def test_a_step_that_was_saved_twice_must_be_named(tmp_path: Path) -> None:
    saved(tmp_path / "run", model())
    store = LocalStore(tmp_path / "run" / "checkpoints")
    first = SavedCheckpoint(str(tmp_path / "run"))
    write(store, folder_name(3, "ab"), ((key, first.tensor(key)) for key in first.index), {"step": 3, "recipe": {}})
    with pytest.raises(UserError, match=r"has 2 checkpoints of step 3: name one, "):
        locate_checkpoint(f"{tmp_path}/run@3")
    assert len(folders(store)) == 2


@pytest.mark.costly
def test_one_tensor_of_two_parents_is_in_memory_at_a_time(tmp_path: Path) -> None:
    shape = {"hidden_size": 512, "mlp_size": 2048, "mamba_heads": 16, "mamba_head_dim": 64, "layers": 16}
    for seed in (1, 2, 3):
        large = model(seed, CONFIG.model_copy(update=shape))
        saved(tmp_path / str(seed), large)
    model_bytes = 4 * sum(value.numel() for value in large.parameters())
    largest = 4 * max(value.numel() for value in large.parameters())
    script = """
from trainer.checkpoint import average as module
module.SLICE = 1 << 16
before = peak()
module.average(sys.argv[1:4], [1, 2, 3], sys.argv[4])
done(None, before)
"""
    _, grew = grown(script, *(tmp_path / str(seed) for seed in (1, 2, 3)), tmp_path / "mean")
    assert grew < 6 * largest + (8 << 20) < model_bytes  # a sum in float64, a parent, its bytes, the result
