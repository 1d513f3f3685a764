"""Nemotron-CC: 31,279 zstd JSON-lines files, 10.4 TiB, at Common Crawl's plain https host, in eleven partitions.

From its page there and public catalogues: `data-jsonl/quality=high/kind=actual/kind2=actual/` has files
`CC-MAIN-2013-20-part-00000.jsonl.zstd` and so on, the other partitions likewise. The host cannot list, and has the list
of all paths in `data-jsonl.paths.gz`, of the sha256 below by several public projects. Records have `text`, `url`,
`language` and `warc_record_id`; Common Crawl's terms of use. The bucket `s3://commoncrawl` lists, but only for those
who have an AWS account: `base: s3://commoncrawl/contrib/Nemotron/Nemotron-CC/data-jsonl`. Not confirmed: that a
`warc_record_id` comes once in a file of the synthetic parts, whose texts are made of pages.
"""

from typing import Literal

from pydantic import Field

from bamba_data.sources.base import Corpus, Listing, Location, Source, TextRule, refuse_unknown

HOST = "https://data.commoncrawl.org/contrib/Nemotron/Nemotron-CC/data-jsonl"
PATHS_SHA256 = "d8201c1e05b5e9fecef7678457c172f98a19a25f1dd656cdba1f937e7a29e68e"
PREFIX = "contrib/Nemotron/Nemotron-CC/data-jsonl/"
_SYNTHETIC = ("distill", "diverse_qa_pairs", "extract_knowledge", "knowledge_list", "wrap_medium")
#: Quality and kind, as a recipe names them; no other pair exists.
PARTS = (
    "high/actual",
    *(f"high/{kind}" for kind in _SYNTHETIC),
    "medium-high/actual",
    "medium/actual",
    "medium-low/actual",
    "low/actual",
    "low/wrap_medium",
)


class NemotronCC(Corpus):
    """`parts`, such as `high/distill`, become the sources `nemotron-<quality>-<kind>`. A `base` of one's own has the
    folders `quality=…` right below it; one of plain https has the list of paths beside it, at `<base>.paths.gz`."""

    corpus: Literal["nemotron-cc"]
    parts: list[str] = Field(default_factory=lambda: list(PARTS), min_length=1)

    def expand(self) -> list[Source]:
        refuse_unknown("nemotron-cc.parts", self.parts, PARTS)
        return [self._source(*part.split("/")) for part in self.parts]

    def _source(self, quality: str, kind: str) -> Source:
        folder = f"quality={quality}/kind={'actual' if kind == 'actual' else 'synthetic'}/kind2={kind}"
        base = (self.base or HOST).rstrip("/")
        made = "" if kind == "actual" else "; texts made of its pages by a language model"
        return Source(
            name=f"nemotron-{quality}-{kind}",
            corpus=self.corpus,
            form="jsonl",
            text=TextRule(fields=["text"], id_field="warc_record_id"),
            location=Location(base=base, files=[f"{folder}/*.jsonl.zstd"], listing=_listing(base)),
            license="Common Crawl terms of use",
            attribution=f"Nemotron-CC, NVIDIA (arXiv 2412.02595); Common Crawl{made}",
            homepage="https://data.commoncrawl.org/contrib/Nemotron/Nemotron-CC/index.html",
        )


def _listing(base: str) -> Listing | None:
    """Of the files at a plain https host, which cannot list them. Of upstream's the digest is known."""
    if not base.startswith(("http://", "https://")):
        return None
    return Listing(url=f"{base}.paths.gz", prefix=PREFIX, sha256=PATHS_SHA256 if base == HOST else None)
