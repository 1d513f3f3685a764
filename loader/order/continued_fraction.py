"""How evenly the multiples of a fraction fill the circle: the smaller its partial quotients, the more evenly.

For the points i p/q mod 1, i < N, and any arc, |points in the arc - N times its length| is at most twice the sum of the
digits of N in the Ostrowski numeration of p/q, and no digit is above its partial quotient (docs/mix.md has the proof).
"""


def quotients(p: int, q: int, limit: int) -> list[int]:
    """The partial quotients of p/q mod 1 that the first `limit` multiples meet, each as far as they meet it.

    Euclid's algorithm. A quotient a after a convergent with denominator d governs multiples d to a d, so it counts as
    at most limit // d (Kuipers & Niederreiter, "Uniform Distribution of Sequences", 2.3).
    """
    partial = []
    p, before, last = p % q, 0, 1
    while p and last <= limit:
        quotient, rest = divmod(q, p)
        partial.append(min(quotient, limit // last))
        q, p = p, rest
        before, last = last, quotient * last + before
    return partial
