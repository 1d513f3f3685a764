"""The documents that share something with a text of an evaluation, by the rule of GPT-3 or that of OLMo.

`gpt3`: T. Brown et al., "Language Models are Few-Shot Learners" (2020, arXiv 2005.14165), appendix C: a document that
has one 13-gram of a text is found; 13-grams that more than 10 documents have are passed over, for most are phrases of
the culture and of lawyers. What differs here: an n-gram is of tokens, not of words without case and punctuation, and
the whole document is listed, where they cut out the n-gram and 200 characters on both sides.

`olmo`: a document that has a whole paragraph of at least 13 words of a text is found, and leaves whole; nothing is
passed over. D. Groeneveld et al., "OLMo" (2024, arXiv 2402.00838) was trained on Dolma without these (paragraphs.py).

    scan        a group of shards → which n-grams or paragraphs which of its documents have
    write_list  counts in how many documents each is, lists the documents and makes the report

What is finished lies in a folder of work, under a name made of all that decides it; so a killed job goes on. By the
rule of GPT-3 no n-gram is kept of a group with more documents than it needs to be passed over, so memory is bounded by
the evaluation; by that of OLMo by the documents of a group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import Unfinished, UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.masks import removed_in
from bamba_data.storage.store import open_store
from bamba_data.tokenization.decode import Decode, token_bytes
from bamba_data.tokenization.tokenizer import Tokenizer, TooLongToEncode

from .evaluation_texts import EvaluationText
from .ngrams import NGRAM_TOKENS, Find, ngram_index
from .paragraphs import PARAGRAPH_WORDS, paragraph_index
from .reading import BLOCK_ROW_BYTES, blocks_of, grouped, named, opened, shards_of, wanted_sources, write_pieces

COMMON_DOCUMENTS = 10  # GPT-3's
GROUP_TOKENS = 1_000_000_000  # of a scan
TASK_BYTES = 1 << 30  # what a task may need beside the tables, the n-grams and what it finds
_FOUND_BYTES = 80  # a document of an n-gram, while the finds of a group are put together
Rule = Literal["gpt3", "olmo"]
RULES: tuple[Rule, ...] = get_args(Rule)
_FORM = {"gpt3": f"bamba-contaminated/1 {NGRAM_TOKENS}", "olmo": f"bamba-contaminated/1 olmo {PARAGRAPH_WORDS}"}


class PassageIndex(Protocol):
    """What of the texts is looked for, n-grams or paragraphs, each by its place.

    `starts` and `texts_of_places` say which texts have it: those from `starts[place]` to `starts[place + 1]`.
    """

    @property
    def starts(self) -> NDArray[np.int64]: ...
    @property
    def texts_of_places(self) -> NDArray[np.int64]: ...
    @property
    def size_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def finder(self, decode: Decode) -> Find: ...


@dataclass(frozen=True)
class Evaluation:
    """The texts, as the tokenizer of a dataset has them.

    Attributes:
        rule: what of them is looked for.
        tasks: their names, in the order of the files.
        task_of: place in `tasks` of each text, int64 [texts].
        index: the n-grams or paragraphs of the texts, in this order.
        sha256: of all of these.
    """

    rule: Rule
    tasks: tuple[str, ...]
    task_of: NDArray[np.int64]
    index: PassageIndex
    sha256: str

    @property
    def short(self) -> NDArray[np.bool_]:
        """Which texts have nothing that is long enough to be looked for, bool [texts]."""
        has_none: NDArray[np.bool_] = np.bincount(self.index.texts_of_places, minlength=len(self.task_of)) == 0
        return has_none


def tokenized(texts: Sequence[EvaluationText], dataset: Dataset, rule: Rule = "gpt3") -> Evaluation:
    """The texts as the builds of the dataset would have made them: by its tokenizer, nothing put before or behind.

    Raises:
        UserError: no text is long enough for the rule; one is too long to be tokenized in bounded memory.
    """
    tokenizer = Tokenizer(dataset.tokenizer_json())
    tasks = tuple(dict.fromkeys(text.task for text in texts))
    ranks = {task: rank for rank, task in enumerate(tasks)}
    task_of = np.fromiter((ranks[text.task] for text in texts), np.int64, len(texts))
    try:
        encoded = tokenizer.reference.encode([text.text for text in texts])
    except TooLongToEncode as error:
        raise UserError(f"--against: a text cannot be tokenized: {error}") from None
    if rule == "olmo":
        decode = token_bytes(tokenizer)
        index: PassageIndex = paragraph_index([decode(ids.tolist()) for ids in encoded.split()])
        least = f"a paragraph of {PARAGRAPH_WORDS} words"
    else:
        index = ngram_index(encoded.split())
        least = f"{NGRAM_TOKENS} tokens"
    if not len(index):
        raise UserError(f"--against: none of {len(texts):,} texts has {least}, so nothing can be found")
    decides = [list(tasks), task_of.tolist(), encoded.lengths.tolist(), canonical_json.sha256(encoded.ids.tobytes())]
    digest = canonical_json.sha256(canonical_json.dumps(decides))
    return Evaluation(rule, tasks, task_of, index, digest)


@dataclass(frozen=True)
class ContaminatedJob:
    """All that decides which documents are found, and where the work lies.

    Attributes:
        url: place of the dataset.
        manifest: digest of the version.
        sources: those that are looked at.
        groups: the shards of each scan, by their rows in the table of shards.
        evaluation: what is looked for.
        common_documents: an n-gram that more documents have is passed over; None passes over none.
        work: URL of a folder that every machine reaches.
        task_bytes: memory that a task may need.
    """

    url: str
    manifest: str
    sources: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    evaluation: Evaluation
    common_documents: int | None
    work: str
    task_bytes: int

    @cached_property
    def folder(self) -> str:
        """Below `work`."""
        groups = [list(group) for group in self.groups]
        evaluation = self.evaluation
        asked = [evaluation.sha256, self.common_documents]
        decides = [_FORM[evaluation.rule], self.manifest, list(self.sources), groups, *asked]
        return f"contaminated-{canonical_json.sha256(canonical_json.dumps(decides))[:32]}"

    def scanned(self, group: int) -> str:
        return f"{self.folder}/scan-{group:06d}.parquet"

    def finished(self) -> set[str]:
        """The paths of what earlier attempts finished."""
        return {entry.path for entry in open_store(self.work).list(self.folder)}


def contaminated_job(
    dataset: Dataset,
    texts: Sequence[EvaluationText],
    work: str,
    sources: Sequence[str] = (),
    common_documents: int | None = None,
    group_tokens: int = GROUP_TOKENS,
    rule: Rule = "gpt3",
) -> ContaminatedJob:
    """What is to be done.

    Args:
        dataset: which version.
        texts: what is looked for.
        work: URL of a folder for what is finished.
        sources: look at these alone; without any, at all.
        common_documents: of the rule of GPT-3: an n-gram that more documents have is passed over; at least 1, 10
            without it.
        group_tokens: a scan has more only if a single shard has.
        rule: which documents are found.

    Raises:
        UserError: a source is not of the dataset or named twice; the version is of the first format; no text can be
            looked for; `common_documents` is given for the rule of OLMo.
    """
    if rule == "olmo" and common_documents is not None:
        raise UserError("--common-documents is of the rule of GPT-3: that of OLMo passes over nothing")
    if rule == "gpt3":
        common_documents = COMMON_DOCUMENTS if common_documents is None else common_documents
    wanted = wanted_sources(dataset, sources)
    evaluation = tokenized(texts, dataset, rule)
    index = evaluation.index
    shards = shards_of(dataset, wanted)
    groups = grouped(shards, "tokens", group_tokens)
    if common_documents is None:  # at worst every document of a group has a paragraph
        documents = dict(shards.select("shard", "documents").iter_rows())
        kept = max((sum(documents[shard] for shard in group) for group in groups), default=0)
    else:
        kept = (common_documents + 1) * len(index)
    task_bytes = TASK_BYTES + BLOCK_ROW_BYTES * len(dataset.blocks) + index.size_bytes + _FOUND_BYTES * kept
    return ContaminatedJob(
        dataset.store.url,
        dataset.manifest.digest,
        wanted,
        groups,
        evaluation,
        common_documents,
        open_store(work).url,
        task_bytes,
    )


def scan(job: ContaminatedJob, group: int) -> int:
    """Write which n-grams stand in which documents of a group of shards; how many documents it has.

    Of an n-gram that is passed over anyway only as many documents as show it are kept.

    Raises:
        CorruptShard: a shard is missing, or not what was published.
    """
    dataset = opened(job.url, job.manifest)
    removed = removed_in(dataset.masks, dataset.blocks)
    ranks = {name: rank for rank, name in enumerate(job.sources)}
    shards = shards_of(dataset, job.sources).filter(pl.col("shard").is_in(list(job.groups[group])))
    index, documents_read = job.evaluation.index, 0
    find = index.finder(token_bytes(Tokenizer(dataset.tokenizer_json())))
    documents_of = np.zeros(len(index), np.int64)
    parts = [_found(0, *(np.empty(0, np.int64),) * 3)]
    for shard in shards.iter_rows(named=True):
        for block in blocks_of(dataset, shard, removed):
            documents, grams = find(*block.tokens)
            if block.gone is not None:
                left = ~block.gone[documents]
                documents, grams = documents[left], grams[left]
            documents_read += len(block.rows) - (0 if block.gone is None else int(block.gone.sum()))
            earlier = documents_of[grams] + _earlier_equals(grams)
            documents_of += np.bincount(grams, minlength=len(index))
            if job.common_documents is not None:
                keep = earlier <= job.common_documents
                documents, grams = documents[keep], grams[keep]
            parts.append(_found(ranks[shard["source"]], grams, block.files[documents], block.rows[documents]))
    with open_store(job.work).writer(job.scanned(group)) as file:
        pl.concat(parts).write_parquet(file)
    return documents_read


def _found(rank: int, grams: NDArray[Any], files: NDArray[Any], rows: NDArray[Any]) -> pl.DataFrame:
    columns = {"ngram": grams, "file": files, "row": rows}
    kinds = {"ngram": pl.UInt32, "file": pl.UInt32, "row": pl.UInt64}
    return pl.DataFrame(columns).cast(kinds).with_columns(rank=pl.lit(rank, pl.UInt32))  # type: ignore[arg-type]


def _earlier_equals(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many equal ones stand before each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    before = np.empty(len(values), np.int64)
    before[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return before


@dataclass(frozen=True)
class OfTask:
    """What was found of a task.

    Attributes:
        texts: how many it has.
        short: of these, those that are too short to be looked for.
        hit: texts of which a listed document has an n-gram or a paragraph.
        passed_over: texts of which n-grams were found, but only such as too many documents have.
        documents: listed ones that have something of the task.
    """

    texts: int
    short: int
    hit: int
    passed_over: int
    documents: int


@dataclass(frozen=True)
class Contaminated:
    """How many documents are listed, of each source and for each task; one can be of several tasks."""

    by_source: dict[str, int]
    by_task: dict[str, OfTask]

    @property
    def documents(self) -> int:
        return sum(self.by_source.values())


def write_list(job: ContaminatedJob, out: Path) -> Contaminated:
    """List what all scans found as one parquet file at `out`, and remove the work.

    Nothing is written where nothing was found: a list of nothing is none.

    Raises:
        Unfinished: a group was not scanned yet.
    """
    store, evaluation = open_store(job.work), job.evaluation
    missing = {job.scanned(group) for group in range(len(job.groups))} - job.finished()
    if missing:
        raise Unfinished(f"{len(missing):,} of {len(job.groups):,} groups of shards are not read yet; run it again")

    def scans() -> Iterator[pl.DataFrame]:
        for group in range(len(job.groups)):
            with store.open(job.scanned(group)) as file:
                yield pl.read_parquet(file)

    index = evaluation.index
    documents_of = np.zeros(len(index), np.int64)
    for found in scans():
        documents_of += np.bincount(found["ngram"].to_numpy(), minlength=len(index))
    counts = documents_of <= (np.iinfo(np.int64).max if job.common_documents is None else job.common_documents)
    texts, gram_of_place = index.texts_of_places, np.repeat(np.arange(len(index)), np.diff(index.starts))
    hit, seen = (
        np.bincount(texts[grams[gram_of_place]], minlength=len(evaluation.task_of)) > 0
        for grams in (counts & (documents_of > 0), documents_of > 0)
    )
    tasks_of = pl.DataFrame({"ngram": gram_of_place, "task": evaluation.task_of[texts]}).unique()
    tasks_of = tasks_of.cast({"ngram": pl.UInt32})
    of_task = np.zeros(len(evaluation.tasks), np.int64)
    dataset = opened(job.url, job.manifest)

    def pieces() -> Iterator[pl.DataFrame]:
        stand = ["rank", "file", "row"]
        for found in scans():
            found = found.filter(pl.Series(counts[found["ngram"].to_numpy()], dtype=pl.Boolean))
            pairs = found.join(tasks_of, on="ngram").select(*stand, "task").unique()
            of_task[:] += np.bincount(pairs["task"].to_numpy(), minlength=len(of_task))
            yield named(found.select(stand).unique().sort(stand), dataset, job.sources)

    by_source = write_pieces(pieces(), job.sources, out)
    for path in sorted(job.finished()):
        store.delete(path)

    def of(rank: int) -> OfTask:
        its = evaluation.task_of == rank
        short, passed_over = its & evaluation.short, its & seen & ~hit
        return OfTask(
            int(its.sum()), int(short.sum()), int((its & hit).sum()), int(passed_over.sum()), int(of_task[rank])
        )

    return Contaminated(by_source, {task: of(rank) for rank, task in enumerate(evaluation.tasks)})
