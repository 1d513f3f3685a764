"""A dataset in the making, wherever its units run: plan, units, records, manifest.

in        a recipe and its lock
out       staged shards with records, and a published manifest
invariant units and their keys follow from recipe, lock and tokenizer; the same key gives the same bytes
"""
