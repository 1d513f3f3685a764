"""`loader` in an installed wheel: another name of `bamba.loader`.

In a checkout the code itself lies at that place.
"""

import sys
from typing import TYPE_CHECKING

import bamba.loader

if TYPE_CHECKING:  # what a type checker sees at the short name
    from bamba.loader import *  # noqa: F403  (the very names, whatever they are)

sys.modules[__name__] = bamba.loader
