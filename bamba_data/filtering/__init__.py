"""What may be said of a document so that it stays or leaves: a condition, in SQL, over named columns.

in     the text of a condition, and documents with the columns that it names
out    the same documents, or for each that leaves a `Reject` with its reason
holds  the answer depends on the document alone, never on its neighbours or the clock
"""
