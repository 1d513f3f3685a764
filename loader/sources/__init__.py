"""Where documents are read from: blocks of shards, and the documents held out of training.

in        a dataset
out       for each block its documents and tokens, known at once; its ids, verified when read
invariant counts are the manifest's, ids have the block's digest
"""
