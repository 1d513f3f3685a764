"""Hugging Face `datasets`: load, `map` a fast tokenizer over batches of 1,000, `to_parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common import Job, main, parquet_documents

if TYPE_CHECKING:
    from common import Ids


def build(job: Job) -> None:
    from datasets import Features, List, Value, load_dataset
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(job.tokenizer))
    kind = "parquet" if job.inputs[0].suffix == ".parquet" else "json"
    rows = load_dataset(kind, data_files=[str(path) for path in job.inputs], split="train")

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
        return {"id": batch["id"], "input_ids": encoded["input_ids"]}

    features = Features({"id": Value("string"), "input_ids": List(Value(job.dtype))})
    tokens = rows.map(encode, batched=True, batch_size=1000, remove_columns=rows.column_names, features=features)
    tokens.to_parquet(str(job.out / "tokens.parquet"))


def documents(job: Job) -> Iterator[Ids]:
    yield from parquet_documents(job)


if __name__ == "__main__":
    main(build, documents, ("datasets", "transformers", "tokenizers", "pyarrow"))
