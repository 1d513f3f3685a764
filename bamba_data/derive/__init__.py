"""A version made of others: documents dropped, a subset, datasets joined, shards that lost much written anew.

in        versions that are published
out       a version of its own, which names its parents and the command
invariant no object that lies in the store is changed; what a version offers is what its tables and masks say
"""
