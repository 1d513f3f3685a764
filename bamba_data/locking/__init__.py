"""The lock: every input of a recipe resolved once, before any work starts, and frozen.

in        a recipe
out       URLs with size, etag, digest: the files that every later run reads
invariant what a lock names does not change without an error that names the file
"""
