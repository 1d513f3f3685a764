"""The layouts of an export: the one table of what each is for, what it can be told and how it is written.

    layout       opens in                                   can be told
    bamba        transformers                               --dtype, --quantize
    granite      vLLM, transformers                         --dtype, --quantize
    nemotron     transformers                               --dtype, --quantize
    mamba2       transformers                               --dtype, --quantize
    gguf         llama.cpp, and what is built on it         --type

A layout is a value with a writer. Another one is another line of `LAYOUTS`: the command, its help and the refusal of
options that a layout does not have follow from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bamba_data.errors import UserError
from bamba_data.extras import require

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer, of_checkpoint
from ..gguf.export import TYPES, export_gguf
from .export import export, max_position_of
from .form import BAMBA, GRANITE, MAMBA2, NEMOTRON, FolderForm


@dataclass(frozen=True)
class ExportOptions:
    """What is asked for of an export beside the model, each None where nothing was said.

    Attributes:
        dtype: `bfloat16` or `float32`: of the matrices.
        quantize: `fp8`.
        type: `f32`, `bf16` or `q8_0`: of the matrices in a GGUF file.
    """

    dtype: str | None = None
    quantize: str | None = None
    type: str | None = None

    def stated(self) -> dict[str, str]:
        """The options that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Layout:
    """One form that a checkpoint can be exported in.

    Attributes:
        opens_in: The programs that open it, in words.
        options: Which values each option of `ExportOptions` may have; an option that is not named here is refused.
        write: Writes it to a place that does not exist yet, whole or not at all. Raises UserError for a model that the
            layout cannot say.
    """

    opens_in: str
    options: Mapping[str, tuple[str, ...]]
    write: Callable[[SavedCheckpoint, Path, ExportOptions, RunTokenizer | None], None]


def _folder_writer(form: FolderForm) -> Callable[[SavedCheckpoint, Path, ExportOptions, RunTokenizer | None], None]:
    def write(saved: SavedCheckpoint, out: Path, options: ExportOptions, tokenizer: RunTokenizer | None) -> None:
        fp8 = options.quantize == "fp8"
        if fp8 and options.dtype == "float32":
            raise UserError(
                "--quantize fp8 and --dtype float32 are two things: what is not quantized is bfloat16 beside it. Give "
                "one of them"
            )
        dtype = torch.float32 if options.dtype == "float32" else torch.bfloat16
        export(saved, out, dtype, tokenizer, form, fp8=fp8)

    return write


def _write_gguf(saved: SavedCheckpoint, out: Path, options: ExportOptions, tokenizer: RunTokenizer | None) -> None:
    require("gguf")
    if tokenizer is None:
        raise UserError("--tokenizer none: llama.cpp opens no model without its tokenizer, so a GGUF file holds it")
    export_gguf(saved, out, options.type or "bf16", tokenizer, max_position_of(saved))


FOLDER_OPTIONS = {"dtype": ("bfloat16", "float32"), "quantize": ("fp8",)}

FORMS = {"bamba": BAMBA, "granite": GRANITE, "nemotron": NEMOTRON, "mamba2": MAMBA2}

LAYOUTS: dict[str, Layout] = {
    **{
        name: Layout(f"{form.class_name}: {form.opened_by}", FOLDER_OPTIONS, _folder_writer(form))
        for name, form in FORMS.items()
    },
    "gguf": Layout("one file: llama.cpp", {"type": TYPES}, _write_gguf),
}


def layout_for(name: str, options: ExportOptions) -> Layout:
    """The layout of this name; `UserError` where there is none, or where it cannot be told what is wanted."""
    if name not in LAYOUTS:
        raise UserError(f"--layout {name}: there is none of this name: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    for option, value in options.stated().items():
        if option not in layout.options:
            others = [other for other, that in LAYOUTS.items() if option in that.options]
            raise UserError(
                f"--{option} {value}: the layout {name} has no such choice; of {', '.join(others) or 'none'} it is one"
            )
        if value not in layout.options[option]:
            raise UserError(f"--{option} {value}: {' or '.join(layout.options[option])}")
    return layout


def export_checkpoint(
    checkpoint: str,
    out: Path,
    layout: str,
    options: ExportOptions,
    tokenizer: str | None,
    bos: str | None,
    eos: str | None,
) -> None:
    """`export` of a run's newest checkpoint, or of one checkpoint.

    Args:
        layout: A key of `LAYOUTS`.
        tokenizer: A tokenizer.json instead of the dataset's; `none` writes none.
        bos: The token that begins a document, by name; None for that of training. So `eos`, which ends one.
    """
    chosen = layout_for(layout, options)
    saved = SavedCheckpoint(checkpoint)
    if tokenizer == "none":
        if bos or eos:
            raise UserError("--bos and --eos name tokens of a tokenizer, and --tokenizer none writes none")
        chosen.write(saved, out, options, None)
        return
    found = of_checkpoint(saved, Path(tokenizer) if tokenizer else None)
    chosen.write(saved, out, options, found.with_tokens(bos, eos))
