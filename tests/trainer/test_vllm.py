"""vLLM serves the layout granite: what we compute, with the prompt in one piece or in several, and FP8 as well."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.peers import VLLM, VLLM_WITHOUT, environment, run
from tests.trainer.proportions import CONFIG, sharp_model
from tests.trainer.small import saved
from trainer.hf.export import export
from trainer.hf.form import GRANITE
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

#: Lengths of prompts, in tokens: in pieces of 16 they are one, three and five pieces.
PROMPT_TOKENS = (5, 33, 70)
NEW_TOKENS = 40

#: For texts that are longer than 16 tokens.
SCALED: list[dict[str, Any]] = [
    {"rotary_scale": {"kind": "yarn", "factor": 4.0, "original_tokens": 16}},
    {
        "rotary_fraction": 1.0,
        "rotary_factors": [1 + 0.2 * pair for pair in range(32)],
        "rotary_scale": {"kind": "longrope", "factor": 4.0, "original_tokens": 16},
    },
]

SERVED = """
import json, os, sys

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

from vllm import LLM, SamplingParams

folder, prompts, dtype, piece_tokens, new_tokens = sys.argv[1:]
llm = LLM(
    folder, dtype=dtype, enforce_eager=True, skip_tokenizer_init=True, max_model_len=256, max_num_seqs=4,
    enable_chunked_prefill=True, max_num_batched_tokens=int(piece_tokens), enable_prefix_caching=False,
    mamba_ssm_cache_dtype="float32",
)
sampling = SamplingParams(
    temperature=0, max_tokens=int(new_tokens), logprobs=1, prompt_logprobs=1, ignore_eos=True, detokenize=False
)
answers = llm.generate([{"prompt_token_ids": ids} for ids in json.loads(prompts)], sampling, use_tqdm=False)

def chosen(ids, steps):
    return [(token, step[token].logprob) for token, step in zip(ids, steps) if step is not None]

print("FOUND" + json.dumps([
    {
        "prompt": chosen(answer.prompt_token_ids, answer.prompt_logprobs),
        "new": chosen(answer.outputs[0].token_ids, answer.outputs[0].logprobs),
    }
    for answer in answers
]))
"""

Chosen = list[list[float]]


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, CONFIG.vocab_size, (count,), generator=generator).tolist() for count in PROMPT_TOKENS]


def served(folder: Path, dtype: str, piece_tokens: int) -> list[dict[str, Chosen]]:
    """For each prompt the log probabilities of its own tokens after the first, and greedy tokens with theirs."""
    python = environment("vllm", VLLM, ours_below=False, without=VLLM_WITHOUT)
    arguments = (folder, json.dumps(prompts()), dtype, piece_tokens, NEW_TOKENS)
    said = run(python, SERVED, *arguments, timeout_seconds=900)
    found: list[dict[str, Chosen]] = json.loads(said.split("FOUND")[1].splitlines()[0])
    return found


@torch.no_grad()
def log_probabilities(ours: Bamba, ids: list[int]) -> torch.Tensor:
    row = torch.tensor([ids])
    return ours.logits(row, torch.zeros_like(row).int(), torch.arange(len(ids))[None])[0].log_softmax(-1)


@pytest.mark.parametrize("piece_tokens", [256, 16], ids=["in one piece", "in pieces of 16"])
def test_vllm_computes_what_we_do_and_writes_the_same_40_tokens(tmp_path: Path, piece_tokens: int) -> None:
    ours = sharp_model()
    export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None, GRANITE)
    for prompt, found in zip(prompts(), served(tmp_path / "hf", "float32", piece_tokens), strict=True):
        new = [int(token) for token, _ in found["new"]]
        assert len(new) == NEW_TOKENS
        mine = log_probabilities(ours, prompt + new)[:-1]
        theirs = torch.tensor([value for _, value in found["prompt"] + found["new"]])
        assert (mine.gather(1, torch.tensor((prompt + new)[1:])[:, None])[:, 0] - theirs).abs().max() <= 1e-5
        assert mine.argmax(-1)[-NEW_TOKENS:].tolist() == new


@pytest.mark.parametrize("scaled", SCALED, ids=["yarn", "longrope of whole heads"])
def test_vllm_computes_what_we_do_at_longer_texts(tmp_path: Path, scaled: dict[str, Any]) -> None:
    config = ModelConfig.model_validate({**CONFIG.model_dump(), **scaled})
    ours = sharp_model(config)
    export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None, GRANITE)
    for prompt, found in zip(prompts(), served(tmp_path / "hf", "float32", 256), strict=True):
        both = prompt + [int(token) for token, _ in found["new"]]
        theirs = torch.tensor([value for _, value in found["prompt"] + found["new"]])
        assert (chosen(ours, both) - theirs).abs().max() <= 1e-5
        assert (chosen(sharp_model(), both) - theirs).abs().max() > 1e-2, "so little changed that nothing is shown"


def chosen(model: Bamba, ids: list[int]) -> torch.Tensor:
    """The log probability of every token but the first."""
    return log_probabilities(model, ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_vllm_opens_fp8(tmp_path: Path) -> None:
    ours = sharp_model()
    export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.bfloat16, None, GRANITE, fp8=True)
    for prompt, found in zip(prompts(), served(tmp_path / "hf", "bfloat16", 256), strict=True):
        mine = log_probabilities(ours, prompt)[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        theirs = torch.tensor([value for _, value in found["prompt"]])
        wrong = log_probabilities(ours, prompt[::-1])[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        assert (mine - theirs).abs().mean() < 0.1 * (mine - wrong).abs().mean()
