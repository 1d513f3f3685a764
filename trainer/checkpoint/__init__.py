"""The whole state of a training run in one commit: torch's distributed checkpoints over our store, without pickle.

in        the tensors of a run by name, sharded in any way, and plain JSON about it
out       a folder `step-…` with one object a rank, an index and a commit
invariant a checkpoint exists when its commit does, and every byte that is read is held against its digest

pieces, direct          bytes of tensors, written and read by several threads
dcp_storage, commits    how one is laid out and read; which ones a run's folder holds
host_staging, writers   the copy that is written while training goes on; whose it is
manager, restore        saving beside the training; finding the one to go on from, on any number of ranks
lease, marks, verify    one run at a time in a folder; what is known to be damaged; reading all of it
reader, locate          one tensor at a time in one process, for export and evaluation
average                 the weighted mean of several, as one more
"""
