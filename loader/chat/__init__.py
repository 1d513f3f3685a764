"""Conversations as a source: messages rendered by a chat template, tokenized, and what the assistant says marked.

in        jsonl or parquet files of conversations, a tokenizer, a chat template
out       blocks, as of a tokenized dataset; ids of tokens that are not to be learned are marked
invariant a conversation is a document; what it is not, or what a template leaves out of it, is refused or counted
"""
