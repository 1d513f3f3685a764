"""What is missing, said before hours are lost: rights, mounts, network, quotas, credentials, each with its way out.

in        a recipe, the place of its dataset, the address of a cluster
out       findings, of this machine and of every node of the cluster
invariant runs as the workers run; it writes and removes a few objects below `_bamba/preflight` of the dataset's place,
          and reads the first bytes of one input of every corpus
"""

from .finding import Finding as Finding
from .inputs import Mirror as Mirror
from .nodes import check as check
from .nodes import findings_here as findings_here
