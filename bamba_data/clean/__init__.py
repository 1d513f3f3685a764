"""Which documents of a dataset should leave it, found from its tokens: producers of lists for `bamba-data drop`.

token_records.py   a record a document: the digest of its ids and where it stands; cut by the digest's beginning
duplicates.py      the documents whose ids another one has, too
"""
