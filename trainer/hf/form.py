"""How a Hugging Face folder says a model of ours: one form each class of `transformers` that computes the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from bamba_data.errors import UserError

from ..model.config import ModelConfig
from . import (
    backbone_tensors,
    bamba_config,
    bamba_tensors,
    granite_config,
    granite_folded,
    granite_tensors,
    mamba2_config,
    mamba_ssm,
    nemotron_config,
)
from .tensor_mapping import TensorMapping


class WriteConfig(Protocol):
    """What config.json says of a model. `max_position` is in tokens, `dtype` the name of the type of its matrices."""

    def __call__(
        self, config: ModelConfig, max_position: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class ForeignForm:
    """A class of another library, of which an import reads folders.

    Attributes:
        class_name: The class that opens the folder.
        config_of: Our config of theirs; it raises UserError for a field that our model cannot be, or does not know.
        tensors: Every tensor of theirs, and where it lies in ours.
        remark_on: Where those who read this config differ, in words; None where they agree.
    """

    class_name: str
    config_of: Callable[[Any, str], ModelConfig]
    tensors: Callable[[ModelConfig], Iterator[TensorMapping]]
    remark_on: Callable[[dict[str, Any]], str | None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class FolderForm(ForeignForm):
    """A class of `transformers`, of which an export writes folders as well.

    Attributes:
        opened_by: What else opens it, in words.
        opened_with_groups: The same of a model with several groups of Mamba2 heads: transformers 4 takes the norm over
            all of them, without a word.
        config_json: What config.json says.
        refuse_unsayable: Raises UserError for a model of ours that this form cannot say.
    """

    opened_by: str
    opened_with_groups: str
    config_json: WriteConfig
    refuse_unsayable: Callable[[ModelConfig], None]

    def openers_of(self, config: ModelConfig) -> str:
        """What opens an export of this model, in words."""
        return self.opened_by if config.mamba_norm_groups == 1 else self.opened_with_groups


BAMBA = FolderForm(
    class_name="BambaForCausalLM",
    opened_by="transformers 4.57 and 5",
    opened_with_groups="transformers 5",
    config_json=bamba_config.config_json,
    config_of=bamba_config.config_of,
    tensors=bamba_tensors.tensor_mappings,
    refuse_unsayable=bamba_config.refuse_unsayable,
)

GRANITE = FolderForm(
    class_name="GraniteMoeHybridForCausalLM",
    opened_by="vLLM, transformers 4.57 and 5",
    opened_with_groups="vLLM, transformers 5",
    config_json=granite_config.config_json,
    config_of=granite_config.config_of,
    tensors=granite_tensors.tensor_mappings,
    refuse_unsayable=granite_config.refuse_unsayable,
)

NEMOTRON = FolderForm(
    class_name="NemotronHForCausalLM",
    opened_by="transformers 5",
    opened_with_groups="transformers 5",
    config_json=nemotron_config.config_json,
    config_of=nemotron_config.config_of,
    tensors=backbone_tensors.tensor_mappings,
    refuse_unsayable=nemotron_config.refuse_unsayable,
    remark_on=nemotron_config.remark_on,
)

MAMBA2 = FolderForm(
    class_name="Mamba2ForCausalLM",
    opened_by="transformers 5",
    opened_with_groups="transformers 5",
    config_json=mamba2_config.config_json,
    config_of=mamba2_config.config_of,
    tensors=backbone_tensors.tensor_mappings,
    refuse_unsayable=mamba2_config.refuse_unsayable,
)

MAMBA_SSM = ForeignForm(
    class_name="MambaLMHeadModel of Mamba2",
    config_of=mamba_ssm.config_of,
    tensors=mamba_ssm.tensor_mappings,
)

#: By what config.json calls `model_type`: the forms that an import reads, beside mamba_ssm's, which has no such field.
BY_MODEL_TYPE = {"bamba": BAMBA, "granitemoehybrid": GRANITE, "nemotron_h": NEMOTRON, "mamba2": MAMBA2}


def form_of(theirs: Any, where: str) -> ForeignForm:
    """The form of this config.json; `UserError` where it is none that we read."""
    if mamba_ssm.is_mamba_ssm(theirs):
        return MAMBA_SSM
    kind = theirs.get("model_type", "bamba") if isinstance(theirs, dict) else "bamba"
    if kind not in BY_MODEL_TYPE:
        raise UserError(f"{where}: model_type is {kind!r}, known are {', '.join(BY_MODEL_TYPE)}")
    if kind == "granitemoehybrid":
        # an import also takes what an export of ours never states: multipliers, folded into weights
        return ForeignForm(
            class_name=GRANITE.class_name,
            config_of=granite_folded.config_of,
            tensors=lambda config: granite_folded.tensor_mappings(theirs, config),
        )
    if kind == "mamba2" and mamba2_config.is_tied(theirs):
        return replace(MAMBA2, tensors=partial(backbone_tensors.tensor_mappings, tied=True))
    return BY_MODEL_TYPE[kind]
