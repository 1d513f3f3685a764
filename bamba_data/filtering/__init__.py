"""What may be said of a document so that it stays or leaves: a condition, in SQL, over named columns.

in     the text of a condition, and the columns that there are
out    of every document whether it holds, or a refusal before anything is read
holds  the answer depends on the document alone, never on its neighbours or the clock
"""
