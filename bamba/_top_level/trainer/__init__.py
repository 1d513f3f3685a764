"""`trainer` in an installed wheel: another name of `bamba.trainer`.

In a checkout the code itself lies at that place.
"""

import sys
from typing import TYPE_CHECKING

import bamba.trainer

if TYPE_CHECKING:  # what a type checker sees at the short name
    from bamba.trainer import *  # noqa: F403  (the very names, whatever they are)

sys.modules[__name__] = bamba.trainer
