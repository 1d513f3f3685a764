"""Values into one HTML file. It fetches nothing, and runs no script but its own, whatever is in the values.

Two walls, each enough by itself: the values are JSON in which no `<`, `>` or `&` stands, so nothing in them ends the
element that holds them; and a policy in the page's head lets run only the script of this very hash.
https://html.spec.whatwg.org/multipage/scripting.html#restrictions-for-contents-of-script-elements
https://www.w3.org/TR/CSP3/
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

#: What would end or change the element, what a JavaScript line ends at, controls, and halves of characters.
_ESCAPED = re.compile("[<>&\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def page(values: Mapping[str, Any]) -> str:
    """The page of what content.content returned. The same values, the same page."""
    style, script = _asset("page.css"), _asset("page.js")
    connect = "'self'" if values.get("live") else "'none'"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src {connect}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "values": encoded(values)}
    # In one go: what is in a part is not looked at for another's name.
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], _asset("page.html"))


def encoded(values: Any) -> str:
    """JSON that can stand anywhere in HTML, and can be written as UTF-8 whatever is in its texts."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return resources.files("bamba_data.page").joinpath("assets", name).read_text(encoding="utf-8")
