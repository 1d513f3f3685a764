"""The corpora: what each is called, where its files lie, which of their fields are text and id.

sources/<corpus>.py   a config model, and `sources()` that expands it     (one file a corpus)
sources/registry.py   the list of them                                    (one line a corpus)
sources/jsonl.py, sources/parquet.py   bytes in, documents out            (one file a form)
"""
