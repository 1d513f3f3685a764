"""`pipelines` in an installed wheel: another name of `bamba.pipelines`.

In a checkout the code itself lies at that place.
"""

import sys

import bamba.pipelines

sys.modules[__name__] = bamba.pipelines
