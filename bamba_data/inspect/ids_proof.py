"""Sampled documents whose ids, decoded and encoded again, are others: are the ids wrong, or does decoding lose text?

Where the tokenizer loses nothing, on none of the texts that tokenizers trip over, the ids are wrong. Where it loses,
only the text that was read can tell: it is read from upstream again, as `trace` does. Where that cannot be had the ids
are not proven, which is no fault of the dataset, and is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bamba_data.format.dataset import Dataset
from bamba_data.inspect.trace import trace
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.round_trip import lost_text
from bamba_data.tokenization.tokenizer import Tokenizer

UPSTREAM_DOCUMENTS = 8  # of a source: each may mean to read a large file from its beginning
RETRY_SECONDS = 10.0


@dataclass
class IdsProof:
    """`faults` by shard; `proven` by their upstream text; `unproven` counts documents by the reason."""

    proven: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    unproven: dict[str, int] = field(default_factory=dict)


def prove(dataset: Dataset, tokenizer: Tokenizer, shards: Sequence[str], code: Path | None = None) -> IdsProof:
    """Decide on the first documents of these shards.

    Args:
        dataset: Of which the shards are.
        tokenizer: The dataset's.
        shards: Paths.
        code: The folder of the sources of transforms, which may then be run.
    """
    proof = IdsProof()
    lost = lost_text(tokenizer)
    if lost is None:
        proof.faults = dict.fromkeys(shards, "block 0: its first document, encoded again, gives other ids")
        return proof
    table = dataset.shards
    for source in dataset.manifest.sources:
        of_source = set(table.filter(table["source"] == source.name)["path"])
        mine = [path for path in shards if path in of_source]
        _prove_source(dataset, tokenizer, mine, proof, code, f"decoding loses text, such as {lost[:20]!r}")
    return proof


def _prove_source(
    dataset: Dataset, tokenizer: Tokenizer, shards: list[str], proof: IdsProof, code: Path | None, because: str
) -> None:
    fetcher = Fetcher(retry_seconds=RETRY_SECONDS)
    for number, path in enumerate(shards):
        left, why = len(shards) - number, f"{UPSTREAM_DOCUMENTS} upstream texts a source are read again, no more"
        if number < UPSTREAM_DOCUMENTS:
            lineage = trace(dataset, (path, 0), fetcher, tokenizer=tokenizer, code=code)
            if lineage.same:
                proof.proven += 1
                continue
            if lineage.same is False:
                proof.faults[path] = "block 0: the upstream text of its first document gives other ids"
                continue
            why = lineage.why
        # What cannot be read once is not tried for every shard.
        proof.unproven[f"{because}, and {why}"] = left
        return
