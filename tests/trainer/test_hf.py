"""What is exported opens in `transformers` and computes the same; what is imported is the same to the bit."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BambaForCausalLM

from bamba_data.canonical_json import digest, dumps
from bamba_data.errors import UserError
from tests.bamba_data.memory import grown
from tests.corpora import TOKENIZER
from tests.trainer.small import CONFIG, model, packed, saved
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.checkpoint.tokenizer import of_checkpoint, of_file
from trainer.distributed.consistency import saved_recipe
from trainer.hf import export
from trainer.hf.importing import imported
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

pytestmark = pytest.mark.slow

#: With a vocabulary that the tokenizer that ships with us fits into.
WIDE = CONFIG.model_copy(update={"vocab_size": 50_304})


def bits(found: SavedCheckpoint) -> dict[str, str]:
    return {key: entry["pieces"][0][-1] for key, entry in found.index.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_an_exported_model_opens_in_transformers_with_equal_logits(
    tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    ours = model()
    export.export(saved(tmp_path / "run", ours), tmp_path / "hf", dtype, None)
    theirs, report = BambaForCausalLM.from_pretrained(tmp_path / "hf", dtype=dtype, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    ids, documents, positions, _ = packed([130])
    cos, _ = theirs.model.rotary_emb(theirs.model.embed_tokens(ids), positions)
    assert cos.shape[-1] == CONFIG.head_dim // 2
    with torch.no_grad():
        mine = (
            SavedCheckpoint(str(tmp_path / "run")).model(torch.device("cpu"), dtype).logits(ids, documents, positions)
        )
        wanted = theirs(ids).logits.float()
    assert (mine.float() - wanted).abs().max() < tolerance * wanted.abs().max()


def test_an_exported_model_generates_in_transformers(tmp_path: Path) -> None:
    export.export(saved(tmp_path / "run", model()), tmp_path / "hf", torch.float32, None)
    theirs = BambaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids = packed([20])[0]
    grown = theirs.generate(ids, max_new_tokens=5, do_sample=False)
    assert grown.shape == (1, 25)


def test_export_then_import_keeps_every_bit(tmp_path: Path) -> None:
    first = saved(tmp_path / "run", model())
    export.export(first, tmp_path / "hf", torch.float32, None)
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    assert bits(back) == bits(first)
    assert back.config == first.config


def test_an_import_into_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    """By an import before, or by a run; what a killed import left is in nobody's way."""
    export.export(saved(tmp_path / "run", model()), tmp_path / "hf", torch.float32, None)
    half = tmp_path / "new" / "checkpoints" / "step-000000000-0"
    half.mkdir(parents=True)
    (half / "rank-00000.bin").write_bytes(b"half")
    imported(tmp_path / "hf", str(tmp_path / "new"))
    for used in ("new", "run"):
        before = bits(SavedCheckpoint(str(tmp_path / used)))
        with pytest.raises(UserError, match=f"{used} is in use: it holds step-"):
            imported(tmp_path / "hf", str(tmp_path / used))
        assert bits(SavedCheckpoint(str(tmp_path / used))) == before


def test_a_run_does_not_go_on_in_the_folder_of_an_imported_model(tmp_path: Path) -> None:
    export.export(saved(tmp_path / "run", model()), tmp_path / "hf", torch.float32, None)
    imported(tmp_path / "hf", str(tmp_path / "back"))
    with pytest.raises(UserError, match="an imported model, no run: begin one in another folder by start_from"):
        saved_recipe(SavedCheckpoint(str(tmp_path / "back")).commit)


def test_import_then_export_keeps_every_bit_of_bfloat16(tmp_path: Path) -> None:
    export.export(saved(tmp_path / "run", model()), tmp_path / "hf", torch.bfloat16, None)
    imported(tmp_path / "hf", str(tmp_path / "back"))
    export.export(SavedCheckpoint(str(tmp_path / "back")), tmp_path / "again", torch.bfloat16, None)
    for file in (tmp_path / "hf").glob("*.safetensors"):
        first, second = load_file(file), load_file(tmp_path / "again" / file.name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_shards_are_cut_at_their_limit_and_open_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 100_000)
    ours = model()
    export.export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None)
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 3
    assert all(file.stat().st_size < 110_000 for file in files)
    theirs = BambaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids, documents, positions, labels = packed([60])
    wanted = cross_entropy(theirs(ids).logits.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(
        ours.losses(ids, documents, positions, labels)[1].flatten(), wanted, rtol=1e-4, atol=1e-4
    )


@pytest.mark.costly
def test_an_export_holds_one_shard_in_memory_and_an_import_one_tensor(tmp_path: Path) -> None:
    shape = {"hidden_size": 512, "mlp_size": 2048, "mamba_heads": 16, "mamba_head_dim": 64, "layers": 12}
    large = Bamba(CONFIG.model_copy(update=shape))
    count = sum(value.numel() for value in large.parameters())
    saved(tmp_path / "run", large)
    exported = """
import torch
from trainer.hf import export as export_hf
from trainer.distributed.consistency import saved_recipe
from trainer.checkpoint.reader import SavedCheckpoint
export_hf.SHARD_BYTES = 16 << 20
saved = SavedCheckpoint(sys.argv[1])
before = peak()
export_hf.export(saved, Path(sys.argv[2]), torch.bfloat16, None)
done(None, before)
"""
    _, grew = grown(exported, tmp_path / "run", tmp_path / "hf")
    largest = 4 * 512 * 4096
    assert grew < (16 << 20) + 8 * largest < 2 * count  # bytes: the model itself in bfloat16 is more
    read_back = """
from trainer.hf.importing import imported
before = peak()
imported(Path(sys.argv[1]), sys.argv[2])
done(None, before)
"""
    _, grew = grown(read_back, tmp_path / "hf", tmp_path / "back")
    assert grew < 8 * largest


def test_the_tokenizer_goes_along_and_its_ids_stand_in_the_config(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", model())
    tokenizer = of_file(TOKENIZER).with_tokens(None, "<|endoftext|>")
    export.export(run, tmp_path / "hf", torch.float32, tokenizer)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    generation = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert config["eos_token_id"] == theirs.eos_token_id == theirs.convert_tokens_to_ids("<|endoftext|>")
    assert generation == {"eos_token_id": theirs.eos_token_id, "use_cache": True}
    assert config["pad_token_id"] is None and config["max_position_embeddings"] == theirs.model_max_length == 256
    text = "call me Ishmael , he said ; don 't !"
    assert theirs.decode(theirs(text)["input_ids"]) == text


def test_a_folder_that_is_no_bamba_of_ours_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    export.export(saved(tmp_path / "run", model()), tmp_path / "hf", torch.float32, None)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_bytes(dumps({**config, "mamba_n_groups": 3}))
    with pytest.raises(UserError, match="mamba_groups: 3 do not divide"):
        imported(tmp_path / "hf", str(tmp_path / "back"))
    (tmp_path / "hf" / "config.json").write_bytes(dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(UserError, match=r"tensors are missing, model\.layers\.4"):
        imported(tmp_path / "hf", str(tmp_path / "back"))
    with pytest.raises(UserError, match="exists"):
        export.export(SavedCheckpoint(str(tmp_path / "run")), tmp_path / "hf", torch.float32, None)


@pytest.mark.parametrize("layers", [[], "all"])
def test_a_model_of_one_kind_of_layers_opens_with_equal_logits_and_generates(tmp_path: Path, layers: object) -> None:
    config = ModelConfig.model_validate({**CONFIG.model_dump(), "attention_layers": layers})
    ours = model(config=config)
    export.export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None)
    theirs = BambaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids, documents, positions, _ = packed([60])
    with torch.no_grad():
        mine, wanted = ours.logits(ids, documents, positions), theirs(ids).logits
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert theirs.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 63)


def test_what_an_imported_model_said_of_itself_is_said_again(tmp_path: Path) -> None:
    tokenizer = of_file(TOKENIZER).with_tokens(None, "<|endoftext|>")
    export.export(saved(tmp_path / "run", model(config=WIDE)), tmp_path / "hf", torch.float32, tokenizer)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_bytes(dumps({**config, "max_position_embeddings": 16384}))
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    export.export(back, tmp_path / "again", torch.float32, of_checkpoint(back))
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again == {**config, "max_position_embeddings": 16384}


def chatting(tmp_path: Path, **config: object) -> Path:
    """A folder of Hugging Face's whose tokenizer_config.json says this, too."""
    tokenizer = of_file(TOKENIZER).with_tokens(None, "<|endoftext|>")
    export.export(saved(tmp_path / "run", model(config=WIDE)), tmp_path / "hf", torch.float32, tokenizer)
    file = tmp_path / "hf" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return tmp_path / "hf"


SAYS = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ pad_token }}{% endfor %}"


@pytest.mark.parametrize("several", [False, True])
def test_a_chat_template_goes_along_by_import_and_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], several: bool
) -> None:
    names = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": SAYS}]
    tokens = {"pad_token": {"content": "<|padding|>"}, "unk_token": "<no such token>"}
    folder = chatting(tmp_path, chat_template=names if several else SAYS, bos_token="<|endoftext|>", **tokens)
    imported(folder, str(tmp_path / "back"))
    assert ("(`default` of default, tool_use)" in capsys.readouterr().err) == several
    back = SavedCheckpoint(str(tmp_path / "back"))
    export.export(back, tmp_path / "again", torch.float32, of_checkpoint(back))
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == SAYS
    talk = [{"role": "user", "content": "Hi"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs.apply_chat_template(talk, tokenize=False) == "<|endoftext|>user: Hi<|padding|>"
    assert len(theirs) == of_file(TOKENIZER).tokenizer.get_vocab_size(with_added_tokens=True)


def test_chat_templates_of_which_none_is_meant_are_refused_before_tensors_are_read(tmp_path: Path) -> None:
    folder = chatting(tmp_path, chat_template=[{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}])
    with pytest.raises(UserError, match=r"by name \(rag, tool_use\), none is `default`: write the one that is meant"):
        imported(folder, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("config", [{"chat_template": "x" * (17 << 20)}, {"chat_template": "x", "a_token": "\ud800"}])
def test_what_no_commit_can_hold_is_refused_before_tensors_are_read(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"tokenizer_config\.json: .*(the limit is|half of a surrogate pair)"):
        imported(chatting(tmp_path, **config), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_tokenizer_of_another_model_or_of_none_is_refused(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", model())
    with pytest.raises(UserError, match="names no dataset to take the tokenizer from: give --tokenizer"):
        of_checkpoint(run)
    with pytest.raises(UserError, match=r"has 50,280 tokens, the model 331: it is not the model's tokenizer"):
        of_checkpoint(run, TOKENIZER)
    (tmp_path / "bad.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match=r"bad\.json is no tokenizer\.json"):
        of_checkpoint(run, tmp_path / "bad.json")


def test_the_model_card_names_checkpoint_data_plan_and_recipe_by_their_digests(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", model())
    run.commit |= {
        "learned": "1" * 64,
        "feed": {"plan": {"sources": {"books": "2" * 64}}},
        "tokens": {"books": 1234567},
    }
    export.export(run, tmp_path / "hf", torch.float32, None)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for value in (digest(run.commit), "1" * 64, digest({"sources": {"books": "2" * 64}}), "2" * 64, "1,234,567"):
        assert value in card
    assert str(tmp_path) not in card


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json: No such file"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
    "nested": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not JSON"),
    "not UTF-8": (lambda folder: (folder / "config.json").write_bytes(b'{"a": "\xff"}'), "not JSON"),
    "cut": (lambda folder: os.truncate(next(folder.glob("*.safetensors")), 5000), "not readable as safetensors"),
    "no tensors": (lambda folder: next(folder.glob("*.safetensors")).unlink(), r"no \.safetensors file"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"is no tokenizer\.json"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_one_line_that_names_the_file(tmp_path: Path, what: str) -> None:
    export.export(saved(tmp_path / "run", model()), tmp_path / "hf", torch.float32, None)
    damage, named = BROKEN[what]
    damage(tmp_path / "hf")
    with pytest.raises(UserError, match=named) as refused:
        imported(tmp_path / "hf", str(tmp_path / "back"))
    assert "\n" not in str(refused.value) and str(tmp_path / "hf") in str(refused.value)


def test_an_export_onto_a_file_or_below_one_is_refused(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", model())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        export.export(run, tmp_path / "file", torch.float32, None)
    with pytest.raises(UserError, match="no folder can be made there"):
        export.export(run, tmp_path / "file" / "hf", torch.float32, None)
