"""Names of the first format: plans and states that name their data by a manifest, `<digest>/<source>`, go on.

Today a source is named by its content, so that any dataset that has it will do (`content_name`). What a manifest's
digest stands for is known where that manifest lies in a store of the data that is open: then its tables tell the
content. Nothing is guessed: a name that cannot be looked up stays as it is, and is refused with the way out.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice, product
from typing import Protocol

from bamba_data.errors import BambaError
from bamba_data.format.dataset import Dataset, dataset_of
from bamba_data.format.layout import MANIFESTS, manifest_path
from bamba_data.format.manifest import FIRST_FORMAT
from bamba_data.storage.store import open_store

from ..sources.base import Blocks
from ..sources.shards import ShardBlocks, content_name
from .plan import MixPlan
from .resume import parts_of

_NAME = re.compile(r"^([0-9a-f]{64})/([^#]+)(#holdout-[0-9a-f]{16})?$")
MAX_TRIES = 4096


def renamed(plan: MixPlan, available: Mapping[str, Blocks]) -> MixPlan:
    """The plan with today's names in place of those of the first format that are proven to be the same data."""
    identities = {
        name: available[name].identity if name in available and _is_named(available[name], identity) else identity
        for name, identity in plan.sources.items()
    }
    return _with(plan, identities) if identities != plan.sources else plan


class Ordered(Protocol):
    """A loader.global_order.Order."""

    @property
    def plan(self) -> MixPlan: ...
    @property
    def available(self) -> Mapping[str, Blocks]: ...


def former_plans(order: Ordered) -> Iterator[MixPlan]:
    """The plan as it would have been under names of the first format, for each publication of its data that is known.
    Looked up only when they are asked for."""
    plan, available = order.plan, order.available
    names = [
        [*_former_names(available[name]), identity] for name, identity in plan.sources.items() if name in available
    ]
    for chosen in islice(product(*names), MAX_TRIES):  # ten publications of each of ten sources would be 10**10
        yield _with(plan, dict(zip(plan.sources, chosen, strict=True)))


def _with(plan: MixPlan, sources: dict[str, str]) -> MixPlan:
    """Made anew: a copy would have the digests that the plan remembers."""
    return MixPlan(header=plan.header, sources=sources, entries=plan.entries)


def difference(here: str, there: str, where: str) -> str:
    """In what two names of data differ, both values named; `where` is the place of the other one."""
    if match := _NAME.match(there):
        return (
            f"it is {here} here; {where} it is that of manifest {match.group(1)[:16]}…, which does not lie in this "
            "store, so what it had cannot be told"
        )
    fields = zip(("content", "tokenizer"), parts_of(here), parts_of(there), strict=True)
    differing = [f"{field}: {mine[:16]}… here, {other[:16]}… {where}" for field, mine, other in fields if mine != other]
    return "; ".join(differing) or f"{here} here, {there} {where}"


def _is_named(blocks: Blocks, identity: str) -> bool:
    """Whether a name of the first format is one of these blocks'."""
    match = _NAME.match(identity)
    shards, suffix = _shards(blocks)
    if match is None or shards is None or (match.group(3) or "") != suffix or match.group(2) != shards.name:
        return False
    return _content_of(shards.dataset.store.url, match.group(1), shards.name) == shards.identity


def _former_names(blocks: Blocks) -> list[str]:
    """All names of the first format that blocks are known to have had."""
    shards, suffix = _shards(blocks)
    if shards is None:
        return []
    url = shards.dataset.store.url
    digests = [digest for digest in _manifests(url) if _content_of(url, digest, shards.name) == shards.identity]
    return [f"{digest}/{shards.name}{suffix}" for digest in digests]


def _shards(blocks: Blocks) -> tuple[ShardBlocks | None, str]:
    """The blocks of a dataset, also of its held-out documents, and what their names then end with."""
    if isinstance(blocks, ShardBlocks):
        return blocks, ""
    # Of HeldoutBlocks, which imports this room; what a TextBlocks has for a source has no blocks.
    within = getattr(getattr(blocks, "source", None), "blocks", None)
    if isinstance(within, ShardBlocks):
        return within, blocks.identity.removeprefix(within.identity)
    return None, ""


def _manifests(url: str) -> list[str]:
    """The digests of all manifests in a store."""
    paths = [entry.path for entry in open_store(url).list(MANIFESTS)]
    digests = (path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths)
    return sorted(digest for digest in digests if manifest_path(digest) in paths)


@lru_cache(maxsize=4096)
def _content_of(url: str, digest: str, source: str) -> str | None:
    """The name by content of a source of the manifest of this digest, if it lies in the store and is of the first
    format."""
    dataset = _first_format(url, digest)
    if dataset is None or source not in dataset.identities:
        return None
    return content_name(dataset.identities[source].content, dataset)


@lru_cache(maxsize=16)
def _first_format(url: str, digest: str) -> Dataset | None:
    try:
        dataset = dataset_of(open_store(url), digest)
    except BambaError:
        return None
    return dataset if dataset.manifest.format == FIRST_FORMAT else None
