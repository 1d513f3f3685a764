"""Text sources: parquet files whose text is tokenized when it is read, in the same provable order.

in        parquet files, a tokenizer
out       blocks, as of a tokenized dataset
invariant an index, made once, says how many tokens every document has; what differs from it is refused
"""
