"""DCLM-baseline 1.0: 7.2 TB of zstd JSON lines on the hub, in 10 global shards of 10 local shards each.

From public pages and copies of the repository's listing: folders `global-shard_01_of_10` to `_10_of_10`, below each
`local-shard_0_of_10` to `_9_of_10`, below those 27,838 files `shard_00000000_processed.jsonl.zst` and so on at the
commit below (`.jsonl.zstd` at earlier ones); CC-BY-4.0; records with `text`, `url`, `metadata` (the WARC headers) and
scores, and without an id of their own: that of the WARC record is taken. Not confirmed: that it is unique in a file.
"""

from typing import Literal

from pydantic import Field

from bamba_data.errors import RecipeError
from bamba_data.sources.base import Corpus, Name, Source, TextRule, hub_location

REPO = "hf://datasets/mlfoundations/dclm-baseline-1.0"
COMMIT = "a3b142c183aebe5af344955ae20836eb34dcf69b"
GLOBAL_SHARDS = tuple(range(1, 11))
LOCAL_SHARDS = tuple(range(10))
#: Of the page that a document came from.
WARC_ID = "metadata.WARC-Record-ID"


class DCLMBaseline(Corpus):
    """The whole, or some of its hundred folders: `global_shards` of 1 to 10, and of each `local_shards` of 0 to 9."""

    corpus: Literal["dclm-baseline"]
    global_shards: list[int] = Field(default_factory=lambda: list(GLOBAL_SHARDS), min_length=1)
    local_shards: list[int] = Field(default_factory=lambda: list(LOCAL_SHARDS), min_length=1)
    revision: str = COMMIT
    name: Name = "dclm-baseline"

    def expand(self) -> list[Source]:
        return [
            Source(
                name=self.name,
                corpus=self.corpus,
                form="jsonl",
                text=TextRule(fields=["text"], id_field=WARC_ID),
                location=hub_location(REPO, self.base, self._patterns(), self.revision),
                license="CC-BY-4.0",
                attribution="DCLM-baseline 1.0, ML Foundations; Common Crawl terms of use",
                homepage="https://huggingface.co/datasets/mlfoundations/dclm-baseline-1.0",
            )
        ]

    def _patterns(self) -> list[str]:
        """One pattern for the whole or a whole global shard, which is one listing each; else one a folder."""
        globals_ = self._chosen("global_shards", self.global_shards, GLOBAL_SHARDS)
        locals_ = self._chosen("local_shards", self.local_shards, LOCAL_SHARDS)
        some = ["*"] if globals_ == GLOBAL_SHARDS and locals_ == LOCAL_SHARDS else [f"{g:02d}" for g in globals_]
        below = ["*"] if locals_ == LOCAL_SHARDS else [str(number) for number in locals_]
        return [f"global-shard_{g}_of_10/local-shard_{number}_of_10/*.jsonl.zst*" for g in some for number in below]

    @staticmethod
    def _chosen(field: str, said: list[int], there_are: tuple[int, ...]) -> tuple[int, ...]:
        if set(said) - set(there_are) or len(set(said)) != len(said):
            raise RecipeError(f"dclm-baseline.{field}: {said} are not different numbers of {list(there_are)}")
        return tuple(sorted(said))
