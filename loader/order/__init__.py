"""Which row comes next: a pure function of a plan and one integer, for any number of ranks.

in        the row index in the global order, the plan (sources, weights, seed, skips)
out       a source, and the row's ordinal in that source
invariant every row of an epoch comes once; ranks and machines decide who reads, never what
"""
