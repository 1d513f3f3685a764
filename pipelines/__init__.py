"""Where and when a dataset is made: the plan of work units, the jobs that run them, progress, recipes.

Only this package imports ray, and only inside the functions that need it.
"""

import bamba

bamba.unite(__name__)
