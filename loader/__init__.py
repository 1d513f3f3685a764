"""Which row of which source comes next, for every machine, from one integer.

The order of rows is a pure function of what is read and how it is mixed; ranks, workers and machines only decide who
reads which row. This package holds that function, bottom up:

    permutation   a keyed bijection on [0, n): any row's place in a shuffled epoch, and back
    mix           a lattice over (step, slot): which source a row of the global order comes from, and its ordinal there
    shares        which rows of a batch a rank computes
    quality       the statistics that a shuffle has to pass beside Fisher-Yates
"""
