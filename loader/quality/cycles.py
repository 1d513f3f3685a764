"""The cycles of an order, and whether it is odd: what an ideal shuffle has of them, and what ours has.

A permutation of n rows is cycles, from a row to the one in whose place it comes, until it closes. An ideal shuffle has
a row's cycle of any length from 1 to n, all equally likely, and as many cycles as heads of coins that fall with chance
1, 1/2, ..., 1/n. It is even or odd (n less the number of cycles), half and half.

Ours is not half and half above 1,024 rows, and cannot be. On 2**k numbers, k > 3, of what a round of
loader.order.permutation does

    x + c mod 2**k with c odd         is one cycle of 2**k: odd
    a x mod 2**k with a = 5 mod 8     has two cycles of equal length among the numbers of each power of two: even
    x xor (x >> ceil(k/2))            is its own inverse and moves 2**k - 2**ceil(k/2) numbers: even

so a round is odd and six of them are even: of n = 2**k rows every order is. For another n, r = 2**k - n numbers are
walked over, which takes r out of their cycles; the order is as odd as r and the number of cycles that lie wholly among
those r. With f = r / 2**k their number is nearly Poisson of mean -ln(1 - f), which is odd with chance
(1 - (1 - f)²) / 2: nothing at a power of two, 3/8 just above one. It is one bit of all that n! orders may say, and is
seen by nobody who has not seen every one of the n places.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..order.permutation import TABLE_UP_TO

Order = NDArray[np.int64]
COINS = 1000  # thrown one by one; the rest, each of a chance below a thousandth, are a Poisson number of heads


def cycles(order: Order) -> Order:
    """By row, the least row of its cycle: int64 [n], by pointer doubling in log2(n) passes."""
    least, ahead = np.arange(order.size), np.asarray(order)
    for _ in range(order.size.bit_length()):  # of the 1, 2, 4, ... rows from here on
        least, ahead = np.minimum(least, least[ahead]), ahead[ahead]
    return least


def number_of_cycles(order: Order) -> int:
    return int(np.sum(cycles(order) == np.arange(order.size)))


def is_odd(order: Order) -> bool:
    return (order.size - number_of_cycles(order)) % 2 == 1


def odd_share(n: int) -> float:
    """Of the keys of `Permutation(n, key)`, how many give an odd order, nearly. An ideal shuffle has a half."""
    if n <= TABLE_UP_TO:
        return 0.5
    size = 1 << (n - 1).bit_length()
    otherwise = (1 - (n / size) ** 2) / 2
    return 1 - otherwise if (size - n) % 2 else otherwise


def cycle_of_a_row(order: Order) -> float:
    """The length of the cycle of row 0: any, equally likely."""
    length = int(np.sum(cycles(order) == 0))
    return (order.size - length + 0.5) / order.size


def cycle_count(order: Order) -> float:
    """Of the number of cycles; half of the chance of just so many is counted."""
    count, chances = number_of_cycles(order), _chances(order.size)
    return float(chances[count + 1 :].sum() + chances[count : count + 1].sum() / 2)


def _chances(n: int) -> NDArray[np.float64]:
    """Of 0, 1, 2, ... cycles of an ideal shuffle of n rows."""
    chances = np.array([1.0])
    for coin in range(1, min(n, COINS) + 1):
        chances = np.convolve(chances, [1 - 1 / coin, 1 / coin])[:256]  # of more heads: below 1e-200
    rest = math.log(n / COINS) if n > COINS else 0.0
    poisson = [math.exp(k * math.log(rest) - rest - math.lgamma(k + 1)) for k in range(128)] if rest else [1.0]
    return np.convolve(chances, poisson)
