"""The whole state of a training run in one commit: torch's distributed checkpoints over our store, without pickle.

storage   tensors as plain bytes with digests, one object a rank, and an index of them
commits   what a run's folder holds: which checkpoints are whole, which one is the newest, what is removed
saving    the asynchronous save and the load on any number of ranks
"""
