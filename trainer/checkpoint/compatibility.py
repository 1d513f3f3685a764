"""Whether a checkpoint holds the tensors that are asked of it: no fewer, no more, and of the same shapes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bamba_data.errors import OtherModel


def check_fits(where: str, index: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """`OtherModel`, naming the first difference of each kind. Of a kind of tensors (`model.`, `optimizer.`) all are
    wanted or none: who wants the model alone leaves out the moments, but not half of the layers."""
    kinds = {name.partition(".")[0] for name in wanted}
    stored = {name for name in index if name.partition(".")[0] in kinds}
    detail = [
        _named("lacks {} that this model has", sorted(wanted.keys() - stored)),
        _named("holds {} that this model has no place for", sorted(stored - wanted.keys())),
        _named(
            "has another shape of {}",
            sorted(name for name in stored & wanted.keys() if index[name]["shape"] != list(wanted[name].shape)),
            lambda name: f" ({index[name]['shape']} there, {list(wanted[name].shape)} here)",
        ),
    ]
    if any(detail):
        raise OtherModel(where, "it " + ", ".join(part for part in detail if part))


def _named(text: str, names: list[str], more: Any = lambda name: "") -> str:
    if not names:
        return ""
    rest = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return text.format(f"{names[0]}{more(names[0])}{rest}")
