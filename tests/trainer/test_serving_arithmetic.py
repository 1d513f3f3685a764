"""The arithmetic of serving counts what real models hold and compute, and gives the table that the docs show."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bamba_data.errors import UserError
from pipelines.cli import app, run
from tests.trainer.small import CONFIG, model, packed, saved
from trainer.arithmetic.ask import question
from trainer.arithmetic.generation_plot import draw_generation, measured_in
from trainer.arithmetic.gpus import GPUS
from trainer.arithmetic.model_parts import ModelCost, WeightFormat
from trainer.arithmetic.plot import draw_ratios
from trainer.arithmetic.report import tables
from trainer.arithmetic.roofline import decode, max_batch, prefill, seconds
from trainer.arithmetic.shapes import KNOWN, shape_of
from trainer.arithmetic.throughput import context_of_ratio, generation, ratio_limit, speed_ratio, step_bytes
from trainer.hf.bamba_config import config_json
from trainer.model.attention import Attention
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

PAGE = Path(__file__).parents[2] / "docs" / "serving_arithmetic.md"
BAMBA = shape_of("bamba-9b-phase1")
LLAMA = KNOWN["llama-3.1-8b"]
K = 1024

#: Where each parameter of a model of ours is counted, by a piece of its name; the first that fits.
PART_OF = {
    "embedding": "embedding",
    "head.norm": "norms",
    "head": "head",
    "_norm.": "norms",
    ".mlp.": "MLP linears",
    "mixer.qkv": "attention linears",
    "mixer.out.": "attention linears",
    "mixer.in_proj": "mamba linears",
    "mixer.out_proj": "mamba linears",
    "mixer.": "convolution, scan, gated norm",
}


@pytest.mark.parametrize("config", [BAMBA, LLAMA, CONFIG, shape_of("bamba-1.8b")], ids=lambda c: str(c.parameters))
def test_each_part_has_the_parameters_that_the_model_has_there(config: ModelConfig) -> None:
    with torch.device("meta"):
        real = Bamba(config)
    held = dict.fromkeys(PART_OF.values(), 0)
    for name, parameter in real.named_parameters():
        held[next(part for piece, part in PART_OF.items() if piece in name)] += parameter.numel()
    cost = ModelCost(config)
    assert {part.name: part.parameters for part in cost.parts} == held
    assert cost.parameters == config.parameters


@pytest.mark.parametrize("config", [BAMBA, LLAMA, CONFIG], ids=["bamba", "llama", "small"])
def test_keys_and_values_are_the_features_that_attention_makes(config: ModelConfig) -> None:
    with torch.device("meta"):
        layers = [block.mixer for block in Bamba(config).blocks]
    kept = [mixer.splits[1:] for mixer in layers if isinstance(mixer, Attention)]
    assert ModelCost(config).kv_elements_per_token == sum(map(sum, kept)) * config.head_dim


def test_bamba_holds_6144_elements_a_token_and_llama_65536() -> None:
    bamba, llama = ModelCost(BAMBA), ModelCost(LLAMA)
    assert (bamba.kv_elements_per_token, llama.kv_elements_per_token) == (6_144, 65_536)
    assert ratio_limit(bamba, llama) == pytest.approx(10.67, abs=0.005)
    assert llama.parameters == 8_030_261_248


@pytest.mark.slow
def test_a_cache_of_transformers_holds_the_elements_that_are_counted() -> None:
    from transformers import BambaConfig, BambaForCausalLM

    theirs = BambaForCausalLM(BambaConfig(**config_json(CONFIG, 256, "float32", 0, 0))).eval()
    tokens = 9
    with torch.no_grad():
        cache = theirs(torch.arange(tokens)[None], use_cache=True).past_key_values
    cost = ModelCost(CONFIG)
    attends = [cache.layers[layer] for layer in CONFIG.attention_indices]
    mambas = [layer for number, layer in enumerate(cache.layers) if number not in CONFIG.attention_indices]
    assert sum(layer.keys.numel() + layer.values.numel() for layer in attends) == tokens * cost.kv_elements_per_token
    states = [state for layer in mambas for state in layer.recurrent_states.values()]
    assert sum(state.numel() for state in states) * 4 == cost.scan_state_bytes
    # transformers keeps a place for the input to come, too
    convs = [state for layer in mambas for state in layer.conv_states.values()]
    assert sum(state[..., 1:].numel() for state in convs) * 2 == cost.conv_state_bytes


def test_flops_are_those_that_torch_counts_of_a_forward() -> None:
    tokens = 64
    ids, documents, positions, _ = packed([tokens])
    ours = model()
    with FlopCounterMode(display=False) as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        ours.logits(ids, documents, positions)
    by_op = counted.get_flop_counts()["Global"]
    products = sum(flops for op, flops in by_op.items() if "bamba" not in str(op))  # without the op of our scan
    cost = ModelCost(CONFIG)
    linears = sum(part.flops_per_token for part in cost.parts if "scan" not in part.name)
    # torch counts all pairs of tokens in attention, also those that the mask hides
    assert products == tokens * linears + tokens * cost.attention_flops(tokens)


def test_the_text_of_the_seed_is_right_where_the_page_says_so_and_loose_where_it_says_so() -> None:
    hidden, layers = BAMBA.hidden_size, BAMBA.layers
    cost = ModelCost(BAMBA)
    inside = cost.parameters - 2 * BAMBA.vocab_size * hidden
    assert inside / 1e9 == pytest.approx(8.730, abs=0.001)
    assert inside / (hidden**2 * layers) == pytest.approx(16.26, abs=0.01)
    attention = 3 * (2 * hidden * (hidden + 1024) + 3 * hidden * BAMBA.mlp_size)
    assert attention / 1e9 == pytest.approx(0.654, abs=0.001)
    assert cost.scan_state_bytes / 1e6 == pytest.approx(121.6, abs=0.1)
    # 4 b d h l elements, read and written, of a state of d and an inner width of 2 h
    assert 2 * cost.scan_state_bytes / 4 == 4 * BAMBA.mamba_state * hidden * cost.mamba_layers
    assert 5 * BAMBA.inner_size * BAMBA.mamba_state == 10 * BAMBA.mamba_state * hidden
    scan = next(part for part in cost.parts if "scan" in part.name).flops_per_token
    assert scan / sum(part.flops_per_token for part in cost.parts) < 0.01


def test_fp8_takes_the_bytes_of_the_seed() -> None:
    cost = ModelCost(BAMBA, "fp8")
    linears = [part for part in cost.parts if part.fp8]
    assert sum(part.parameters for part in linears) / 1e9 == pytest.approx(8.7278, abs=0.0001)
    scales = sum(part.weight_bytes - part.parameters for part in linears)
    assert (cost.weight_bytes - scales) / 1e9 == pytest.approx(10.833, abs=0.001)
    assert 4 * cost.parameters / 1e9 == pytest.approx(39.121, abs=0.001)


#: out, room and tokens a second of Bamba and Llama in bfloat16, ratio in bfloat16, in fp8, and on an H200.
MEMORY_LIMITED = [
    (2, 323, 137, 9747, 8863, 1.10, 1.03, 0.95),
    (8, 220, 45, 8519, 3335, 2.55, 2.39, 2.19),
    (16, 154, 24, 6984, 1827, 3.82, 3.64, 3.52),
    (32, 96, 12, 5131, 948, 5.41, 5.22, 5.21),
    (64, 55, 6, 3357, 483, 6.94, 6.85, 6.89),
]


@pytest.mark.parametrize(("out", "room", "room_llama", "speed", "speed_llama", "bf16", "fp8", "h200"), MEMORY_LIMITED)
def test_the_memory_limited_throughput_is_the_one_of_the_table(
    out: int, room: int, room_llama: int, speed: float, speed_llama: float, bf16: float, fp8: float, h200: float
) -> None:
    ours, theirs = (generation(ModelCost(config), GPUS["h100"], K, out * K) for config in (BAMBA, LLAMA))
    assert (ours.room, theirs.room) == (room, room_llama)
    assert ours.tokens_per_second == pytest.approx(speed, abs=1)
    assert theirs.tokens_per_second == pytest.approx(speed_llama, abs=1)

    def ratio(weights: WeightFormat, gpu: str) -> float:
        speeds = [
            generation(ModelCost(config, weights), GPUS[gpu], K, out * K).tokens_per_second for config in (BAMBA, LLAMA)
        ]
        return speeds[0] / speeds[1]

    assert ratio("bf16", "h100") == pytest.approx(bf16, abs=0.006)
    assert ratio("fp8", "h100") == pytest.approx(fp8, abs=0.006)
    assert ratio("bf16", "h200") == pytest.approx(h200, abs=0.006)


@pytest.mark.parametrize(
    ("batch", "ratio", "context"),
    [(8, 5, 157e3), (32, 5, 52e3), (64, 5, 35e3), (8, 2.5, 45e3), (32, 2.5, 16e3), (64, 2.5, 11e3)],
)
def test_a_ratio_is_reached_where_the_formula_says_and_not_before(batch: int, ratio: float, context: float) -> None:
    ours, theirs = ModelCost(BAMBA), ModelCost(LLAMA)
    crossing = context_of_ratio(ours, theirs, batch, ratio)
    assert crossing == pytest.approx(context, rel=0.02)
    assert crossing is not None
    assert speed_ratio(ours, theirs, batch, crossing) == pytest.approx(ratio)
    assert speed_ratio(ours, theirs, batch, crossing * 0.9) < ratio < speed_ratio(ours, theirs, batch, crossing * 1.1)


def test_one_short_sequence_is_slower_than_on_the_attention_only_model_and_11_times_is_never_reached() -> None:
    ours, theirs = ModelCost(BAMBA), ModelCost(LLAMA)
    assert speed_ratio(ours, theirs, 1, K) == pytest.approx(0.81, abs=0.005)
    assert context_of_ratio(ours, theirs, 64, 11) is None
    assert context_of_ratio(ours, theirs, 1, 0.5) == 0


def test_a_pass_takes_at_least_what_its_bytes_and_its_products_take() -> None:
    cost, gpu = ModelCost(BAMBA), GPUS["h100"]
    for batch in (1, 64, 4096):
        step = decode(cost, gpu, batch, 4 * K)
        assert sum(work.moved_bytes for work in step) == pytest.approx(step_bytes(cost, batch, 4 * K))
        flops = batch * (sum(part.flops_per_token for part in cost.parts) + cost.attention_flops(4 * K))
        assert seconds(step) * (1 + 1e-12) >= max(step_bytes(cost, batch, 4 * K) / 3.35e12, flops / 989.4e12)
    first = prefill(cost, gpu, 1, 4 * K)
    assert sum(work.flops for work in first) < 4 * K * sum(part.flops_per_token for part in cost.parts) * 1.02


def test_a_model_larger_than_the_memory_has_no_room() -> None:
    assert max_batch(ModelCost(BAMBA.model_copy(update={"layers": 320})), GPUS["l40s"], K) == 0


# ---- the command


def test_the_page_shows_what_the_command_prints() -> None:
    text = PAGE.read_text(encoding="utf-8")
    command, _, rest = text.partition("<!-- ")[2].partition(" -->\n")
    words = shlex.split(command)
    asked = question(words[3], "llama-3.1-8b", words[words.index("--gpu") + 1], "bf16", None, None, K)
    assert "\n".join(tables(asked)).strip() == rest.partition("\n<!-- end -->")[0], f"{command} prints it"


def test_json_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["model", "arithmetic", "bamba-9b-phase1", "--json", "--batch", "8", "--context", "1024"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["models"]["bamba-9b-phase1"]["parameters"] == BAMBA.parameters
    assert [row["batch"] for row in said["roofline"]] == [8]
    assert said["throughput"][1]["llama-3.1-8b"]["room"] == 45


def test_a_run_and_a_config_json_are_shapes_too(tmp_path: Path) -> None:
    saved(tmp_path / "run", model())
    assert shape_of(str(tmp_path / "run")) == CONFIG
    (tmp_path / "config.json").write_text(json.dumps(config_json(CONFIG, 256, "float32", None, None)))
    assert shape_of(str(tmp_path)) == CONFIG


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("bamba-9b", "bamba-9b: no such shape, recipe, run or config.json"),
        ("bamba-9b-phase1 --gpu tpu", "--gpu tpu: not known here; these are: a100, h100"),
        ("bamba-9b-phase1 --weights int4", "--weights int4: bf16 or fp8"),
        ("llama-3.1-8b", "the same model twice"),
        ("bamba-9b-phase1 --plot x.gif", "--plot x.gif: the name must end in .png, .svg, .pdf"),
        ("bamba-9b-phase1 --plot nowhere/x.png", "the folder nowhere is not there"),
        ("bamba-9b-phase1 --plot-generation x.gif", "x.gif: the name must end in .png, .svg, .pdf"),
        ("bamba-9b-phase1 --measured x.jsonl", "--measured puts points into a picture: name it by --plot-generation"),
        ("bamba-9b-phase1 --plot-generation x.svg --measured x.jsonl", "--measured x.jsonl: no curve of"),
    ],
)
def test_a_question_that_has_no_answer_is_one_line(
    words: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(app, ["model", "arithmetic", *words.split()]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_the_picture_is_drawn_in_the_format_of_its_name(tmp_path: Path) -> None:
    draw_ratios(ModelCost(BAMBA), ModelCost(LLAMA), ("bamba", "llama"), [8, 64], tmp_path / "ratio.svg")
    assert "<svg" in (tmp_path / "ratio.svg").read_text(encoding="utf-8")


HEAD = {"device": "NVIDIA H200", "memory_bytes": 1.5e11}


def curve(file: Path, speeds: dict[str, dict[int, float]], in_tokens: int = K) -> Path:
    lines = [
        {"model": name, "in_tokens": in_tokens, "out_tokens": out, "batch": 3, "tokens_per_second": speed}
        for name, each in speeds.items()
        for out, speed in each.items()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in [HEAD, *lines]))
    return file


def test_what_was_measured_stands_in_the_picture_of_generation_and_what_was_not_is_said(tmp_path: Path) -> None:
    asked = question("bamba-9b-phase1", "attention-only", "h200", "bf16", None, None, K)
    assert asked.theirs.attention_layers == 32 and asked.theirs.mamba_layers == 0
    file = curve(
        tmp_path / "c.jsonl", {"hybrid": {2 * K: 90.0, 8 * K: 50.0}, "attention only": {2 * K: 100.0, 8 * K: 0}}
    )
    found = measured_in(file)
    assert (found.device, found.ratios) == ("NVIDIA H200", {2 * K: 0.9}), "at 8K the other one had no room"
    draw_generation(asked, found, tmp_path / "with.svg")
    draw_generation(asked, None, tmp_path / "without.svg")
    drawn = {name: (tmp_path / f"{name}.svg").read_text(encoding="utf-8") for name in ("with", "without")}
    assert "measured, NVIDIA H200" in drawn["with"] and "nothing measured" not in drawn["with"]
    assert "nothing measured" in drawn["without"]
    other = measured_in(curve(tmp_path / "o.jsonl", {"hybrid": {K: 1.0}, "attention only": {K: 1.0}}, in_tokens=7))
    with pytest.raises(UserError, match="--in-tokens 1024, and what was measured begins with 7"):
        draw_generation(asked, other, tmp_path / "x.svg")
    with pytest.raises(UserError, match="at no length both models were measured"):
        measured_in(curve(tmp_path / "n.jsonl", {"hybrid": {K: 1.0}}))


def test_a_model_that_is_not_ours_is_refused_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="model_type is 'llama'"):
        shape_of(str(tmp_path))
