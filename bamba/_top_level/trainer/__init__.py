"""`trainer` in an installed wheel: another name of `bamba.trainer`.

In a checkout the code itself lies at that place.
"""

import sys

import bamba.trainer

sys.modules[__name__] = bamba.trainer
