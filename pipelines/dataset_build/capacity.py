"""What the full jobs come to, from measured rates: files, bytes, core-hours, wall time, requests; feeding many GPUs.

    python -m pipelines.arithmetic                 the tables of docs/arithmetic.md, which a test holds equal to this

Every rate says where it was measured. With other rates: `rates = replace(MEASURED, line_bytes_per_core_second=…)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bamba_data.terminal import emit

from .plan import INFLATED

TB, MB = 1e12, 1e6


@dataclass(frozen=True)
class Rates:
    """Of one core, or of one object. Those of a core: 2026-11-22, one of 2 cores of an AMD EPYC virtual machine."""

    line_bytes_per_core_second: float = 69.7e6  # benchmarks/unit_stages.py: a unit, from json.gz to its shards
    shard_bytes_per_token: float = 1.353  # benchmarks/shard_format.py: binary, PLAIN, zstd-3
    decoded_tokens_per_core_second: float = 343e6  # the same: blocks read and held against their digests
    tokens_per_block: int = 1 << 18
    blocks_per_shard: int = 128
    # Counted at a proxy before an S3 server (docs/arithmetic.md): what a build asks of its store.
    writes_per_shard: float = 2.0
    reads_per_shard: float = 1.0
    requests_per_unit: float = 6.0
    requests_per_build: float = 45.0


MEASURED = Rates()


@dataclass(frozen=True)
class Corpus:
    """`input_bytes` as they are fetched, compressed."""

    name: str
    files: int
    input_bytes: float
    tokens: float
    largest_file_tokens: float


#: Sizes as the data set's card and its list of URLs say; the largest file is a mean of its source, starcoder's.
DOLMA = Corpus("dolma-v1_7", 2_419, 4.5 * TB, 2_308.5e9, 5.4e9)


@dataclass(frozen=True)
class Job:
    corpus: Corpus
    rates: Rates = MEASURED

    @property
    def line_bytes(self) -> float:
        return self.corpus.input_bytes * INFLATED[".gz"]

    @property
    def core_hours(self) -> float:
        return self.line_bytes / self.rates.line_bytes_per_core_second / 3600

    @property
    def shards(self) -> float:
        """Full ones, and half a one more at the end of every file."""
        full = self.corpus.tokens / (self.rates.tokens_per_block * self.rates.blocks_per_shard)
        return full + self.corpus.files / 2

    @property
    def shard_bytes(self) -> float:
        return self.corpus.tokens * self.rates.shard_bytes_per_token

    @property
    def writes(self) -> float:
        return self.rates.writes_per_shard * self.shards + self.corpus.files

    @property
    def requests(self) -> float:
        each_shard = self.rates.writes_per_shard + self.rates.reads_per_shard
        return (
            each_shard * self.shards + self.rates.requests_per_unit * self.corpus.files + self.rates.requests_per_build
        )

    def hours(self, cores: int) -> float:
        """Of wall time: the work shared evenly, but never less than the largest file, which one core reads."""
        mean_line = self.line_bytes / self.corpus.tokens
        largest = self.corpus.largest_file_tokens * mean_line / self.rates.line_bytes_per_core_second / 3600
        return max(self.core_hours / cores, largest)  # gzip cannot be split: one core reads one file


@dataclass(frozen=True)
class Feed:
    """Ranks that read the rows of their share from blocks; a row of concatenated documents lies in at most two."""

    ranks: int
    tokens_per_rank_second: float
    row_tokens: int
    ranks_per_host: int = 8
    blocks_per_row: float = 2.0
    rates: Rates = MEASURED

    @property
    def blocks_per_rank_second(self) -> float:
        return self.blocks_per_row * self.tokens_per_rank_second / self.row_tokens

    @property
    def decoded_per_rank_second(self) -> float:
        return self.blocks_per_rank_second * self.rates.tokens_per_block

    @property
    def core_share(self) -> float:
        """Of one core, to decode and verify."""
        return self.decoded_per_rank_second / self.rates.decoded_tokens_per_core_second

    @property
    def bytes_per_host_second(self) -> float:
        return self.ranks_per_host * self.decoded_per_rank_second * self.rates.shard_bytes_per_token

    @property
    def requests_per_second(self) -> float:
        return self.ranks * self.blocks_per_rank_second


def tables() -> Iterator[str]:
    """The tables of docs/arithmetic.md."""
    job = Job(DOLMA)
    line_rate = MEASURED.line_bytes_per_core_second / MB
    yield f"""\
| of Dolma v1.7 |  | from |
| --- | --- | --- |
| files, each a unit | {DOLMA.files:,} | the list of URLs |
| fetched | {DOLMA.input_bytes / TB:.1f} TB | the card |
| lines of JSON | {job.line_bytes / TB:.1f} TB | {INFLATED[".gz"]} times the gzip |
| tokens | {DOLMA.tokens / 1e12:.2f} T | the card |
| written | {job.shard_bytes / TB:.2f} TB | {MEASURED.shard_bytes_per_token} bytes a token |
| shards | {job.shards:,.0f} | 33.6 M tokens each |
| core-hours | {job.core_hours:,.0f} | {line_rate:.1f} MB of lines/s a core |
| requests to the store | {job.requests:,.0f} | 3 a shard, 6 a unit, 45 a build |
| of them writes | {job.writes:,.0f} | 2 a shard, 1 a unit |

| workers of 8 cores | cores | wall time | fetching | writing | requests/s |
| --- | --- | --- | --- | --- | --- |"""
    for workers in (1, 4, 16, 32, 64):
        hours = job.hours(8 * workers)
        seconds = 3600 * hours
        wall_time = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.0f} min"
        fetching, writing = (size / seconds / MB for size in (DOLMA.input_bytes, job.shard_bytes))
        yield (
            f"| {workers} | {8 * workers} | {wall_time} | {fetching:,.0f} MB/s | {writing:,.0f} MB/s "
            f"| {job.requests / seconds:,.0f} |"
        )
    yield """
| GPUs | tokens/s | decoded a rank | of a core | read a host of 8 | range reads/s, all |
| --- | --- | --- | --- | --- | --- |"""
    for ranks in (8, 192, 1_024, 10_000):
        feed = Feed(ranks, 10_000, 4_096)
        yield (
            f"| {ranks:,} | {ranks * 10_000 / 1e6:,.1f} M | {feed.decoded_per_rank_second / 1e6:,.2f} M tokens/s "
            f"| {feed.core_share:.1%} | {feed.bytes_per_host_second / MB:,.0f} MB/s | {feed.requests_per_second:,.0f} |"
        )


def main() -> None:
    emit("\n".join(tables()))
