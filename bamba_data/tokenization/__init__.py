"""Text into token ids: one reference, faster backends that have proved to give the same ids.

in        the text of a document
out       its ids, or the reason why it must not become a row
invariant every backend gives the reference's ids, shown on a hard corpus before it may touch a build
"""
