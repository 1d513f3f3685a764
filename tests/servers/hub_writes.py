"""What a hub takes: new repositories, files (git's own and LFS), commits, tags; as huggingface_hub's client sends them.

    POST /api/repos/create                             409 where it is there already
    POST /api/<kind>/<repo>/preupload/<revision>       regular or lfs, and what the hub has under the name
    POST /<repo>.git/info/lfs/objects/batch            where to put each object that is not there
    PUT  <CDN>/upload/<sha256>                         under a signature, without the token
    POST /api/lfs/verify                               the size
    POST /api/<kind>/<repo>/commit/<revision>          lines of JSON; an LFS object must have come before
    POST /api/<kind>/<repo>/tag/<revision>, GET /refs

Only the one `writer` may, if the server has one.
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from .repos import Blob, HubError, is_lfs
from .wire import Answer

if TYPE_CHECKING:
    from .hub import Call, HubServer


def as_json(value: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def check_writer(hub: HubServer, call: Call) -> None:
    if hub.writer is not None and call.token != f"Bearer {hub.writer}":
        status, said = (403, "You don't have the rights to write here") if call.token else (401, "Log in first")
        raise HubError(status, "", said)


def create(hub: HubServer, call: Call) -> Answer:
    check_writer(hub, call)
    asked = json.loads(call.form)
    kind = f"{asked.get('type', 'model')}s"
    repo = f"{asked['organization']}/{asked['name']}"
    where = {"url": f"{hub.url}/{'' if kind == 'models' else f'{kind}/'}{repo}", "name": repo, "id": "0"}
    if not hub.repos(kind).make(repo):
        answer = as_json({**where, "error": "You already created this repo"})
        return Answer(409, answer.headers, answer.body)
    hub.visibility[repo] = asked.get("visibility", "public")
    return as_json(where)


def preupload(hub: HubServer, call: Call) -> Answer:
    check_writer(hub, call)
    _, tree = hub.repos(call.kind).at(call.repo, call.revision)
    files = []
    for file in json.loads(call.form)["files"]:
        sample = base64.b64decode(file["sample"])
        # The hub sees a sample and the size, and knows suffixes.
        large = is_lfs(file["path"], Blob(sample.ljust(min(file["size"], 1 << 20), b"\0")))
        known = tree.get(file["path"])
        oid = None if known is None else known.sha256 if large else known.git_oid
        mode = "lfs" if large else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return as_json({"files": files})


def batch(hub: HubServer, call: Call) -> Answer:
    check_writer(hub, call)
    from .hub import signature

    objects: list[dict[str, Any]] = []
    for asked in json.loads(call.form)["objects"]:
        entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.objects:
            path, expires = f"/upload/{asked['oid']}", f"{time.time() + hub.signed_url_seconds:.3f}"
            signed = urlencode({"Expires": expires, "Signature": signature(path, expires)})
            entry["actions"] = {
                "upload": {"href": f"{hub.cdn_url}{path}?{signed}", "header": {}},
                "verify": {"href": f"{hub.url}/api/lfs/verify", "header": {}},
            }
        objects.append(entry)
    return as_json({"transfer": "basic", "objects": objects})


def put_object(hub: HubServer, call: Call) -> Answer:
    """On the CDN."""
    from .hub import signature

    path, expires = f"/upload/{call.sha256}", call.query.get("Expires", "0")
    if call.query.get("Signature") != signature(path, expires) or float(expires) < time.time():
        raise HubError(403, "", "Access Denied: the signature is wrong or has expired")
    blob = Blob(call.form)
    if blob.sha256 != call.sha256:
        raise HubError(400, "", "BadDigest")
    hub.objects[blob.sha256] = blob
    return Answer(200, {"ETag": blob.store_etag})


def verify(hub: HubServer, call: Call) -> Answer:
    asked = json.loads(call.form)
    blob = hub.objects.get(asked["oid"])
    if blob is None or len(blob.content) != asked["size"]:
        raise HubError(422, "", "the object is not there, or of another size")
    return as_json({})


def commit(hub: HubServer, call: Call) -> Answer:
    check_writer(hub, call)
    repos = hub.repos(call.kind)
    head, tree = repos.at(call.repo, call.revision)
    changed = dict(tree)
    for line in call.form.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "header":
            if value.get("parentCommit") not in (None, head):
                raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
        elif entry["key"] == "file":
            changed[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif entry["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                raise HubError(400, "", f"LFS pointer pointed to a file that does not exist: {value['path']}")
            changed[value["path"]] = hub.objects[value["oid"]]
        elif entry["key"] == "deletedFile":
            del changed[value["path"]]
        else:
            raise HubError(400, "", f"what is a {entry['key']}?")
    oid = repos.commit(call.repo, changed)
    hub.commits.append((call.repo, oid, sorted(changed.keys() - tree.keys())))
    prefix = "" if call.kind == "models" else f"{call.kind}/"
    return as_json({"commitUrl": f"{hub.url}/{prefix}{call.repo}/commit/{oid}", "commitOid": oid, "hookOutput": ""})


def tag(hub: HubServer, call: Call) -> Answer:
    check_writer(hub, call)
    repos = hub.repos(call.kind)
    at, _ = repos.at(call.repo, call.revision)
    if not repos.tag(call.repo, json.loads(call.form)["tag"], at):
        raise HubError(409, "", "Tag reference exists already")
    return as_json({})


def refs(hub: HubServer, call: Call) -> Answer:
    repos = hub.repos(call.kind)
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": at} for name, at in repos.tags(call.repo).items()
    ]
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repos.head(call.repo)}
    return as_json({"branches": [main], "converts": [], "tags": tags})


def validate_yaml(hub: HubServer, call: Call) -> Answer:
    return as_json({"errors": [], "warnings": []})
