"""A bijection on [0, n) chosen by a key. No state, exact for any n below 2**62, any index at once; inverse included.

The shuffle is a linear congruential generator whose state is the index. With k the bits of n - 1, one round is

    x <- a x + c  mod 2**k      a full-period LCG step: a = 5 mod 8, c odd (Hull & Dobell 1962)
    x <- x ^ (x >> ceil(k/2))   because the low bits of an LCG never see its high bits

Both lines are bijections on [0, 2**k), and so are six rounds of them with constants drawn from the key. A result that
is not below n is sent round again until it is (cycle walking: Black & Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002), which makes a bijection on [0, n) in fewer than two passes on average.

Six rounds, and a table up to n = 1,024, are measured choices. Over 4 million keys the distribution of the images of two
indices n/2 apart shows four rounds at n = 4,096 (z = 12), five nowhere from 4,096 to 2**40, six nowhere from n = 100
on; below that even six fail (n = 64: z = 20; n = 16: z = 15,000; n = 2: one permutation in all). So small domains are
shuffled by sorting random words, which is Fisher-Yates by other means, and quicker there than the rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property

Indices = NDArray[np.uint64]
X = TypeVar("X", int, NDArray[np.uint64])
Pass = Callable[[Any], Any]  # of an int to an int, of an array to itself, changed

ROUNDS = 6
TABLE_UP_TO = 1024
MAX_N = 2**62
BLOCK = 1 << 16  # indices of a pass: two such arrays of 8 bytes stay in a core's cache
WORD = 2**64 - 1


def derive_key(*parts: int | str | bytes) -> int:
    """A key of 64 bits from `parts`; different parts give different keys but for chance (one in 2**64).

    Each part goes in with its type and its length, so ("a", "bc") and ("ab", "c"), 1 and "1", or one part and two,
    never meet. BLAKE2b, so that keys of neighbouring seeds and epochs have nothing in common.
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, int):
            tag, data = b"i", part.to_bytes(part.bit_length() // 8 + 1, "little", signed=True)
        elif isinstance(part, str):
            tag, data = b"s", part.encode()
        elif isinstance(part, bytes):
            tag, data = b"b", part
        else:
            raise TypeError(f"a key is derived from int, str and bytes, not from {type(part).__name__} {part!r}")
        digest.update(tag + len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True)
class Permutation:
    """`Permutation(n, key)(i)` is where index i goes, `.inverse(j)` what came to j: both in [0, n).

    0 < n < 2**62, 0 <= key < 2**64. An int gives an int, an array of integers gives uint64 of its shape.

    Raises:
        ValueError: n or key is out of range.
        IndexError: on a call, an index lies outside of [0, n).
        TypeError: on a call, indices are not integers.
    """

    n: int
    key: int

    def __post_init__(self) -> None:
        if not 0 < self.n < MAX_N:
            raise ValueError(f"a permutation of {self.n:,} indices: between 1 and 2**62 - 1 are possible")
        if not 0 <= self.key <= WORD:
            raise ValueError(f"key {self.key} does not fit in 64 bits: make one with derive_key")

    @overload
    def __call__(self, index: int) -> int: ...
    @overload
    def __call__(self, index: NDArray[np.integer]) -> Indices: ...
    def __call__(self, index: int | NDArray[np.integer]) -> int | Indices:
        return self._map(index, self._forward, lambda: self._table)

    @overload
    def inverse(self, place: int) -> int: ...
    @overload
    def inverse(self, place: NDArray[np.integer]) -> Indices: ...
    def inverse(self, place: int | NDArray[np.integer]) -> int | Indices:
        return self._map(place, self._backward, lambda: self._inverse_table)

    def _map(self, x: int | NDArray[np.integer], once: Pass, table: Callable[[], Indices]) -> int | Indices:
        if isinstance(x, int):
            if not 0 <= x < self.n:
                raise IndexError(f"index {x:,} does not lie in [0, {self.n:,})")
            if self.n <= TABLE_UP_TO:
                return int(table()[x])
            y: int = once(x)
            while y >= self.n:
                y = once(y)
            return y
        indices = _checked(x, self.n)
        return table()[indices] if self.n <= TABLE_UP_TO else _walk(indices, self.n, once)

    @cached_property
    def _table(self) -> Indices:
        # A word's low bits make way for its index: words differ, so that every sort gives the same order.
        low = np.uint64(TABLE_UP_TO - 1)
        words = (_stream(self.key, self.n) & ~low) | np.arange(self.n, dtype=np.uint64)
        return np.sort(words) & low

    @cached_property
    def _inverse_table(self) -> Indices:
        inverse = np.empty(self.n, np.uint64)
        inverse[self._table] = np.arange(self.n, dtype=np.uint64)
        return inverse

    @cached_property
    def _constants(self) -> list[tuple[int, int]]:
        words = _stream(self.key, 2 * ROUNDS).tolist()
        return [(a & ~7 | 5, c | 1) for a, c in zip(words[::2], words[1::2], strict=True)]

    @cached_property
    def _inverse_constants(self) -> list[tuple[int, int]]:
        return [(pow(a, -1, 2**64), c) for a, c in reversed(self._constants)]

    @cached_property
    def _mask(self) -> int:
        return (1 << (self.n - 1).bit_length()) - 1

    @cached_property
    def _half(self) -> int:
        return ((self.n - 1).bit_length() + 1) // 2

    # One pass over [0, 2**k), of an int or, in place, of an array, whose products wrap at 2**64, a multiple of 2**k.

    def _forward(self, x: X) -> X:
        for a, c in self._constants:
            x *= a
            x += c
            x &= self._mask
            x ^= x >> self._half
        return x

    def _backward(self, x: X) -> X:
        for a, c in self._inverse_constants:
            x ^= x >> self._half  # twice `_half` is at least k: the xorshift undoes itself
            x -= c
            x *= a
            x &= self._mask
        return x


def _stream(key: int, count: int) -> Indices:
    """`count` words of SplitMix64 (Steele, Lea & Flood 2014) with seed `key`."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _checked(index: NDArray[np.integer], n: int) -> Indices:
    """A fresh uint64 copy. Floats are refused: they would lose indices from 2**53 on, silently."""
    if not np.issubdtype(index.dtype, np.integer):
        raise TypeError(f"indices must be integers, not {index.dtype}")
    if index.size and (int(index.min()) < 0 or int(index.max()) >= n):
        raise IndexError(f"indices from {index.min()} to {index.max()} do not all lie in [0, {n:,})")
    return np.array(index, np.uint64, order="C")


def _walk(x: Indices, n: int, once: Pass) -> Indices:
    """Send every element of `x` through `once`, in place, until it lies below n."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = once(flat[start : start + BLOCK])
        outside = np.flatnonzero(block >= n)
        while outside.size:
            again = once(block[outside])
            block[outside] = again
            outside = outside[again >= n]
    return x
