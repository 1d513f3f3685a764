"""A dataset as a person looks at it: one HTML file, and the same page over a server on this machine.

    content.py     what the page says, as plain values (JSON): gathered from the manifest, its tables and few blocks
    documents.py   documents of a source by their number: where they lie, what they say, read block by block
    samples.py     which documents the file shows
    lengths.py     how long documents are: histograms of every source on one axis
    accounts.py    the ledger by source and file; dead letters with their raw bytes
    planned.py     the mix as a plan weighs it: what the loader tells of one
    history.py     versions, and which came of which
    file.py        values into one file that fetches nothing and runs no script but its own
    browse.py      pages of documents, and a search through their texts, for the server
    server.py      the server: this machine only, a token, read-only
    assets/        the page itself: HTML, CSS and JavaScript, without a library

Everything that came from elsewhere (names, ids, texts, bytes) goes into the page as data, and its script shows it as
text. What a page holds is bounded, whatever the dataset's size, and each bound is said on the page.
"""
