"""Which documents of a dataset should leave it, found from its tokens: producers of lists for `bamba-data drop`.

reading.py             which shards a task reads, the documents in them, and the list
token_records.py       a record a document: the digest of its ids and where it stands; cut by the digest's beginning
duplicates.py          the documents whose ids another one has, too
evaluation_texts.py    the texts of evaluations, from files
ngrams.py              where the n-grams of texts stand in blocks of tokens
contaminated.py        the documents that share n-grams with texts of evaluations
"""
