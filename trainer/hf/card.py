"""The model card of an export: what it was trained on, and the digests that name checkpoint, data, plan and recipe."""

from typing import Any

from bamba_data.canonical_json import digest

from ..checkpoint.reader import SavedCheckpoint
from .form import FolderForm
from .storage import Storage

HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [bamba, mamba2, hybrid]
---

# {title}

{parameters:.2f} B parameters in {numbers}: {mamba} Mamba2 layers and {attention} of attention (layers {indices}){mlps}.
Opens as `{class_name}` in {opened_by}:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

Batches are padded on the left: a hybrid's state runs through padding on the right.

## Where it comes from

| what | digest (sha256) |
| --- | --- |
"""


def model_card(saved: SavedCheckpoint, form: FolderForm, storage: Storage) -> str:
    """README.md of the folder, in Markdown. Holds no path and no URL of the run: an export is made to be given away."""
    commit, config = saved.commit, saved.config
    recipe = commit["recipe"]
    indices = config.attention_indices
    card = HEAD.format(
        title=("An average of " if commit.get("averaged") else "") + (recipe.get("name") or "An imported Bamba"),
        parameters=config.parameters / 1e9,
        numbers="FP8 (e4m3, one scale a row; the rest bfloat16)" if storage.fp8 else storage.dtype_name,
        class_name=form.class_name,
        opened_by=form.openers_of(config),
        mamba=len(config.mamba_indices),
        attention=len(indices),
        indices=", ".join(map(str, indices)) or "none",
        mlps="" if config.layer_kinds is None else f", {len(config.mlp_indices)} of an MLP",
    )
    rows = [("checkpoint", digest(commit)), ("recipe, as far as it decides what is learned", commit.get("learned"))]
    plan = (commit.get("feed") or {}).get("plan")
    if plan:
        rows.append(("plan of the order of rows", digest(plan)))
        rows += [(f"dataset, source {name}", identity) for name, identity in sorted(plan["sources"].items())]
    card += "".join(f"| {what} | `{value}` |\n" for what, value in rows if value)
    return card + _trained(commit)


def _trained(commit: dict[str, Any]) -> str:
    """Steps and tokens by source, or of what the weights were made."""
    if commit.get("imported"):
        return "\nThe weights were imported, not trained here.\n"
    if parents := commit.get("averaged"):
        lines = ["\nThe weighted mean of checkpoints:\n\n| share | step | tokens | checkpoint (sha256) |\n"]
        lines.append("| ---: | ---: | ---: | --- |\n")
        for parent in parents:
            count = sum(parent["tokens"].values())
            lines.append(f"| {parent['share']:.6g} | {parent['step']:,} | {count:,} | `{parent['checkpoint']}` |\n")
        return "".join(lines)
    tokens: dict[str, int] = commit.get("tokens") or {}
    lines = [f"\n{commit['step']:,} steps, {sum(tokens.values()):,} tokens.\n"]
    if tokens:
        lines.append("\n| source | tokens |\n| --- | ---: |\n")
        lines += [f"| {name} | {count:,} |\n" for name, count in sorted(tokens.items(), key=lambda item: -item[1])]
    return "".join(lines)
