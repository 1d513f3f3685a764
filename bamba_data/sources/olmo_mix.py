"""olmo-mix-1124, the mix of OLMo 2's first stage and of Bamba's from 2 to 2.5 T tokens: JSON lines on the hub.

From its card and public copies of its listing at the commit below: seven parts in folders of `data/`, at different
depths and in two compressions (`data/wiki/wiki-0000.json.gz`, `data/arxiv/train/arxiv-train-0000.json.gz`,
`data/dclm/raw/…/shard_00000000_processed.jsonl.zstd`), so a part is all below its folder that has its ending. The part
`dclm` has the records of DCLM-baseline, without an id, and by one public count 100 files more than DCLM-baseline has
shards: files of another ending are left alone. `starcoder` is 863 files, some of 30 kB. Not confirmed: the fields
beyond those that the card has (id, text, added, created), and whether `pes2o` and `wiki` are those of dolmino-mix-1124,
which have the same sizes.
"""

from typing import Literal

from pydantic import Field

from bamba_data.sources.base import Corpus, Source, TextRule, hub_location, refuse_unknown
from bamba_data.sources.dclm_baseline import WARC_ID

REPO = "hf://datasets/allenai/olmo-mix-1124"
COMMIT = "99ee6aaace88779d1ef099d36251b91101c1679b"
#: The parts, with the licence that the card gives for each and where it is from.
PARTS: dict[str, tuple[str, str]] = {
    "dclm": ("CC-BY-4.0", "DCLM-baseline 1.0 (Common Crawl terms of use)"),
    "arxiv": ("ODC-BY-1.0", "RedPajama arXiv through Proof Pile 2"),
    "pes2o": ("ODC-BY-1.0", "peS2o, from S2ORC"),
    "starcoder": ("ODC-BY-1.0", "StarCoder data, from The Stack (permissively licensed code; its terms of use apply)"),
    "algebraic-stack": ("ODC-BY-1.0", "Proof Pile 2 AlgebraicStack"),
    "open-web-math": ("ODC-BY-1.0", "Proof Pile 2 OpenWebMath (Common Crawl terms of use)"),
    "wiki": ("ODC-BY-1.0", "Wikipedia and Wikibooks (CC BY-SA)"),
}


class OLMoMix(Corpus):
    """`parts` become the sources `olmo-<part>`."""

    corpus: Literal["olmo-mix-1124"]
    parts: list[str] = Field(default_factory=lambda: list(PARTS), min_length=1)
    revision: str = COMMIT

    def expand(self) -> list[Source]:
        refuse_unknown("olmo-mix-1124.parts", self.parts, PARTS)
        return [self._source(part, *PARTS[part]) for part in self.parts]

    def _source(self, part: str, license: str, origin: str) -> Source:
        ending = "jsonl.zst*" if part == "dclm" else "json.gz"
        return Source(
            name=f"olmo-{part}",
            corpus=self.corpus,
            form="jsonl",
            text=TextRule(fields=["text"], id_field=WARC_ID if part == "dclm" else "id"),
            location=hub_location(REPO, self.base, [f"data/{part}/**/*.{ending}"], self.revision),
            license=license,
            attribution=f"olmo-mix-1124, Allen Institute for AI; {origin}",
            homepage="https://huggingface.co/datasets/allenai/olmo-mix-1124",
        )
