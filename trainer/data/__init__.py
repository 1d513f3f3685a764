"""A rank's rows of each step: from the loader to tensors on a device.

in        the recipe's datasets
out       micro-batches
invariant place and plan are one state, saved with every checkpoint
"""
