"""datatrove: a reader and `DocumentTokenizer` in a `LocalPipelineExecutor`, batches of 1,000, no shuffle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from common import Job, main

if TYPE_CHECKING:
    from common import Ids


def build(job: Job) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    folder = job.inputs[0].parent
    names = job.out.parent / "datatrove-paths.txt"
    names.write_text("".join(f"{path.relative_to(folder)}\n" for path in job.inputs))
    reader = ParquetReader if job.inputs[0].suffix == ".parquet" else JsonlReader
    LocalPipelineExecutor(
        pipeline=[
            reader(str(folder), paths_file=str(names)),
            DocumentTokenizer(
                str(job.out),
                tokenizer_name_or_path=str(job.tokenizer),
                eos_token=job.eos_token,
                batch_size=1000,
                shuffle_documents=False,
            ),
        ],
        tasks=1,
        workers=1,
        logging_dir=str(job.out.parent / "datatrove-logs"),
    ).run()


def documents(job: Job) -> Iterator[Ids]:
    import numpy as np

    for index in sorted(job.out.rglob("*.index")):
        ids = np.fromfile(index.with_suffix(""), job.dtype)
        start = 0
        for end in map(int, np.fromfile(index, "<u8")):
            yield ids[start:end]
            start = end


if __name__ == "__main__":
    main(build, documents, ("datatrove", "tokenizers"))
