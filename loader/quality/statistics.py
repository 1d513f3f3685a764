"""How likely a statistic is to be at least as large as it is: the four distributions that the battery needs.

Every function gives the upper tail, so that a value near 0 says "too large" and one near 1 "too small": of a shuffle,
too irregular or too regular. Both are faults.
"""

import math

import numpy as np
from numpy.typing import NDArray

#: Degrees of freedom up to which the sum is taken; above, the cube root of a chi-square is normal to four digits.
SUMMED = 400


def normal_tail(z: float) -> float:
    """Of a standard normal variable: erfc keeps its digits where 1 - erf would be 0."""
    return math.erfc(z / math.sqrt(2)) / 2


def chi_square_tail(x: float, freedom: int) -> float:
    """Exact up to 400 degrees of freedom (the closed sums of Abramowitz & Stegun 26.4.4, 26.4.5), then by Wilson &
    Hilferty (1931), which is off by less than 1e-4 there."""
    if x <= 0:
        return 1.0
    if freedom > SUMMED:
        spread = 2 / (9 * freedom)
        return normal_tail(((x / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread))
    odd = freedom % 2
    powers = np.arange(freedom // 2) + odd / 2  # of x/2, each divided by its Gamma(power + 1)
    logs = [power * math.log(x / 2) - math.lgamma(power + 1) - x / 2 for power in powers.tolist()]
    return min(1.0, odd * math.erfc(math.sqrt(x / 2)) + math.fsum(map(math.exp, logs)))


def kolmogorov_tail(distance: float, count: float) -> float:
    """Of the largest distance between the distribution of `count` independent draws and the true one.

    Kolmogorov's series, at the argument by which Stephens (1970) corrects for a finite count. For two samples of m and
    n draws, `count` is m n / (m + n).
    """
    x = distance * (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count))
    if x < 0.2:  # the tail is 1 to twelve digits, and the series needs ever more terms
        return 1.0
    terms = [2 * (-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 50)]
    return min(1.0, max(0.0, math.fsum(terms)))


def uniform_tail(values: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov: how likely independent uniform draws from [0, 1] would stray so far from uniform."""
    ordered, count = np.sort(values), values.size
    above = np.arange(1, count + 1) / count - ordered
    below = ordered - np.arange(count) / count
    return kolmogorov_tail(float(max(above.max(), below.max())), count)


def same_tail(some: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov for two samples: how likely draws from one distribution would lie so far apart."""
    places = np.concatenate([some, others])
    shares = [np.searchsorted(np.sort(sample), places, side="right") / sample.size for sample in (some, others)]
    count = some.size * others.size / (some.size + others.size)
    return kolmogorov_tail(float(np.abs(shares[0] - shares[1]).max()), count)
