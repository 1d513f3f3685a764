"""What a recipe does to documents before they are tokenized: a condition that they must meet, and a function of the
user's that makes another text of theirs.

in     the text of a condition or the source of a function, and documents with the columns that it names
out    the documents, or for each that leaves a `Reject` with its reason
holds  the answer depends on the document alone, never on its neighbours or the clock
"""
