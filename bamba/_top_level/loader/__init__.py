"""`loader` in an installed wheel: another name of `bamba.loader`.

In a checkout the code itself lies at that place.
"""

import sys

import bamba.loader

sys.modules[__name__] = bamba.loader
