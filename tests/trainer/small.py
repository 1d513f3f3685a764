"""A hybrid that is small enough for a CPU test, with values drawn, and rows of documents for it."""

from pathlib import Path

import torch
from torch import Tensor

from bamba_data.storage.store import LocalStore
from trainer.checkpoint.commits import folder_name
from trainer.checkpoint.reader import SavedCheckpoint, write
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig
from trainer.model.init_weights import init_weights

CONFIG = ModelConfig(
    vocab_size=331,
    hidden_size=64,
    mlp_size=96,
    layers=4,
    attention_layers=[1],
    attention_heads=4,
    kv_heads=2,
    mamba_heads=8,
    mamba_head_dim=16,
    mamba_state=16,
)


def model(seed: int = 7, config: ModelConfig = CONFIG) -> Bamba:
    made = Bamba(config, chunk_tokens=48)
    init_weights(made, config, seed)
    return made


def packed(lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One row with documents of these lengths: input_ids, documents, positions, labels."""
    tokens = sum(lengths)
    ids = torch.randint(0, CONFIG.vocab_size, (1, tokens + 1), generator=torch.Generator().manual_seed(seed))
    documents = torch.cat([torch.full((n,), number) for number, n in enumerate(lengths)]).int()[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    labels = ids[:, 1:].clone()
    ends = torch.tensor(lengths).cumsum(0) - 1
    labels[:, ends] = -100
    return ids[:, :-1], documents, positions, labels


def saved(folder: Path, ours: Bamba, row_tokens: int = 256) -> SavedCheckpoint:
    """A checkpoint that holds this model."""
    tensors = ((f"model.{name}", value.detach()) for name, value in ours.named_parameters())
    about = {"step": 3, "recipe": {"model": ours.config.model_dump(mode="json"), "data": {"row_tokens": row_tokens}}}
    write(LocalStore(folder / "checkpoints"), folder_name(3, "0"), tensors, about)
    return SavedCheckpoint(str(folder))
