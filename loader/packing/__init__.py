"""How documents become rows of equal length, and the cached segments that rows are cut from.

in        documents of a block or group of blocks, in the order of an epoch
out       rows of `row_tokens` tokens, with delimiters, labels, document numbers
invariant every token of an epoch lies in one row, and `row_start` of any row follows by arithmetic
"""

from .base import Longs, Packed
from .registry import PACKERS

__all__ = ["PACKERS", "Longs", "Packed"]
