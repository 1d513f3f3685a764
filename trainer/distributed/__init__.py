"""One model on many processes: sharding, agreement between ranks, float8.

in        a model on every rank
out       a sharded model whose ranks agree
invariant what must be the same on all ranks is compared before the first step
"""
