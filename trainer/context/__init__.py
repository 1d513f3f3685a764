"""One row over several ranks (context parallelism): each holds a contiguous part of every row of its batch.

group.py      the ranks that share rows, and how a world divides into them
exchange.py   what they tell each other: three collectives, under the names of process groups
mix_op.py     a Mamba2 block between its linears: a halo of three tokens and one state pass from part to part
gather_op.py  tensors of all parts end to end, with gradients: keys and values of the attention layers
"""
