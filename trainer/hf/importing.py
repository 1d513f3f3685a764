"""A folder of any form that we read (form.py) as a checkpoint of ours, bit for bit; a recipe begins with it by
`start_from: OUT`. Tensors pass one by one."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bamba.loader.chat.template import ChatTemplate, template_beside
from bamba_data.canonical_json import sha256
from bamba_data.errors import UserError
from bamba_data.storage.store import Store, open_store

from ..checkpoint import commits
from ..checkpoint.lease import Lease
from ..checkpoint.reader import write
from ..checkpoint.tokenizer import FILE, of_file
from ..model.bamba import Bamba
from ..model.config import ModelConfig
from ..observe.messages import rank_zero_logger, say
from .form import ForeignForm, form_of
from .tensor_mapping import TensorMapping
from .weights import StoredTensor, stored_tensors


def imported(folder: Path, out: str) -> None:
    """Commit the model of `folder` as step 0 of a run at `out`; `UserError` where a tensor is missing, too many or of
    another shape."""
    theirs = _config(folder / "config.json")
    form = form_of(theirs, str(folder / "config.json"))
    config = form.config_of(theirs, str(folder / "config.json"))
    template = template_beside(folder)
    stored = stored_tensors(folder)
    wanted = [piece.theirs for piece in form.tensors(config)]
    if missing := sorted(set(wanted) - set(stored)):
        raise UserError(f"{folder}: {len(missing)} tensors are missing, {missing[0]} among them")
    if extra := sorted(set(stored) - set(wanted)):
        raise UserError(f"{folder}: {len(extra)} tensors are of no {form.class_name}, {extra[0]} among them")
    store, name = open_store(f"{out}/checkpoints"), commits.folder_name(0, secrets.token_hex(3))
    lease = Lease(store, rank_zero_logger())
    lease.take()
    try:
        commits.require_unused(store, out, lambda folder: folder.step == 0, "Import into another folder")
        about: dict[str, Any] = {
            "step": 0,
            "world_size": 1,
            "recipe": {"model": config.model_dump(mode="json")},
            "imported": True,
            "hf": _kept(theirs, folder, template, store, name),
        }
        write(store, name, _tensors(config, form, stored), about)
    finally:
        lease.release()
    say(f"{out}: the model of {folder}")
    if "chat_template" in about["hf"] and template is not None:
        say(f"{out}: with the chat template of {template.where}")
    if remark := form.remark_on(theirs):
        say(f"{folder}: {remark}")


def _config(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({str(error)[:120]})") from None


def _kept(
    theirs: dict[str, Any], folder: Path, template: ChatTemplate | None, store: Store, name: str
) -> dict[str, Any]:
    """What an export of this model must say again, and what our shape does not hold; the tokenizer goes along, with
    its chat template."""
    about: dict[str, Any] = {
        "max_position_embeddings": theirs.get("max_position_embeddings", 262144),  # BambaConfig's default
        "bos_token_id": _one(theirs.get("bos_token_id")),
        "eos_token_id": _one(theirs.get("eos_token_id")),
    }
    if (folder / FILE).is_file():
        tokenizer = of_file(folder / FILE)
        store.put(f"{name}/{FILE}", tokenizer.data)
        about["tokenizer_sha256"] = sha256(tokenizer.data)
        if template is not None:
            about["chat_template"] = template.text
            about["special_tokens"] = dict(template.special_tokens)
    return about


def _one(token: Any) -> int | None:
    """An id; of several that may end a text, the first."""
    first = token[0] if isinstance(token, list) and token else token
    return first if isinstance(first, int) else None


def _tensors(config: ModelConfig, form: ForeignForm, stored: dict[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """Ours, in float32, each put together of its pieces."""
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Bamba(config).named_parameters()}
    by_ours: dict[str, list[TensorMapping]] = {}
    for piece in form.tensors(config):
        by_ours.setdefault(piece.ours, []).append(piece)
    for name, parts in by_ours.items():
        whole = torch.empty(shapes[name])
        for piece in parts:
            theirs = stored[piece.theirs].read()
            expected = [piece.end - piece.start, *([1] if piece.middle else []), *whole.shape[1:]]
            if list(theirs.shape) != expected:
                raise UserError(f"{stored[piece.theirs].file}: {piece.theirs} is {list(theirs.shape)}, not {expected}")
            piece.into(whole, theirs)
        yield f"model.{name}", whole
