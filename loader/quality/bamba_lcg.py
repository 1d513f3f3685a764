"""The shuffle of the original Bamba loader (fms-fsdp), to compare with: x <- 5 x + c mod 2**ceil(log2 n).

It visits each of n documents once, as ours does, but is no shuffle: neighbours in the order lie on five lines, parities
alternate, and a key only shifts or mirrors the one sequence. Nothing but the battery uses it.
"""

import numpy as np
from numpy.typing import NDArray


def legacy_order(n: int, seed: int, rank: int = 0) -> NDArray[np.uint64]:
    """The whole order of n documents, n < 2**40, from x = rank + seed with c = 2 (rank + seed) + 1.

    Values from n on are left out. So `_random_map_docid` of fms-fsdp's StreamingDocDataset walks the documents of one
    file that one logical shard owns, in its first epoch.
    """
    modulus = 1 << (n - 1).bit_length()  # as fms-fsdp: the LCG runs over the next power of two
    start, step = (rank + seed) % modulus, 2 * (rank + seed) + 1
    walk = np.array([(5 * start + step) % modulus], np.uint64)
    factor, shift = 5, step  # x becomes factor x + shift in as many steps as `walk` is long
    while walk.size < modulus:
        walk = np.concatenate([walk, (walk * np.uint64(factor) + np.uint64(shift)) & np.uint64(modulus - 1)])
        factor, shift = factor * factor % modulus, (factor * shift + shift) % modulus
    return walk[walk < n]
