"""The licences of sources, as people wrote them, in the identifiers that a model hub knows."""

import re
from collections.abc import Iterable

#: The hub's (its list of licences for the field `license` of a card); mostly SPDX's in lower case.
# fmt: off
_HUB = frozenset({
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odc-by", "odbl", "pddl", "cdla-sharing-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
    "unlicense", "wtfpl",
})
# fmt: on
#: SPDX's identifiers of which the hub leaves the version out.
_RENAMED = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl"}
UNKNOWN = "other"


def hub_licences(licences: Iterable[str]) -> list[str]:
    """One identifier for each different licence, in the order in which they come; only `other` where any is none that
    the hub knows: part of a list would claim that the rest is free of terms."""
    names = [re.sub(r"[\s_]+", "-", licence.strip().lower()) for licence in licences]
    identifiers = [_RENAMED.get(name, name) for name in names]
    return list(dict.fromkeys(identifiers)) if identifiers and _HUB.issuperset(identifiers) else [UNKNOWN]
