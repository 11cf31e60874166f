"""The calls that the test Hub answers, one function each, and the table of their addresses."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .hub_files import LFS_OID, HubError, paths_info, tree, wants_lfs
from .hub_http import Request, Response, answer, ranged

if TYPE_CHECKING:
    from .hub_server import HubServer


def whoami(hub: "HubServer", request: Request) -> Response:
    """The caller."""
    name = hub.signed_in(request)
    access = {"type": "access_token", "accessToken": {"displayName": name, "role": "write"}}
    return answer({"type": "user", "id": name, "name": name, "fullname": name, "orgs": [], "auth": access})


def create_repo(hub: "HubServer", request: Request) -> Response:
    """A new repository; one that is there already still tells its address, with a 409."""
    asked = request.json()
    owner = hub.own(request, asked.get("organization") or hub.signed_in(request))
    place = (asked.get("type") or "model", f"{owner}/{asked['name']}")
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    if place in hub.content.repos:
        message = f"You already created this {place[0]} repo"
        return answer({"error": message, "url": hub.web_url(hub.content.repos[place])}, 409)
    repo = hub.content.create(*place, private=private, author=owner)
    return answer({"url": hub.web_url(repo), "name": repo.id, "id": repo.id, "private": private})


def delete_repo(hub: "HubServer", request: Request) -> Response:
    """Forget a repository."""
    asked = request.json()
    request.params = {
        "type": f"{asked.get('type') or 'model'}s",
        "repo": f"{asked.get('organization') or hub.signed_in(request)}/{asked['name']}",
    }
    repo = hub.writable(request)
    del hub.content.repos[repo.type, repo.id]
    return answer({})


def repo_info(hub: "HubServer", request: Request) -> Response:
    """A repository as it stands at a revision."""
    repo = hub.readable(request)
    return answer(repo.info(request.params.get("revision") or "main", sizes="blobs" in request.query))


def auth_check(hub: "HubServer", request: Request) -> Response:
    """Whether the caller may read, or with `/write` write."""
    (hub.writable if request.params["write"] else hub.readable)(request)
    return answer({})


def list_refs(hub: "HubServer", request: Request) -> Response:
    """Branches, tags and pull requests."""
    return answer(hub.readable(request).list_refs())


def create_branch(hub: "HubServer", request: Request) -> Response:
    """A new branch at a starting point."""
    repo, branch = hub.writable(request), request.params["branch"]
    if branch.startswith("refs/"):
        raise HubError("BadRequest", f"Invalid reference for a branch: {branch}")
    repo.add_ref(f"refs/heads/{branch}", request.json().get("startingPoint") or "main")
    return answer({})


def create_tag(hub: "HubServer", request: Request) -> Response:
    """A new tag at a revision."""
    hub.writable(request).add_ref(f"refs/tags/{request.json()['tag']}", request.params["revision"])
    return answer({})


def list_commits(hub: "HubServer", request: Request) -> Response:
    """The commits of a revision, last one first."""
    return answer([commit.info() for commit in hub.readable(request).log(request.params["revision"])])


def list_tree(hub: "HubServer", request: Request) -> Response:
    """The listing of a folder."""
    files = hub.readable(request).resolve(request.params["revision"]).files
    recursive = request.query.get("recursive", [""])[0].lower() == "true"
    return answer(tree(files, request.params["path"], recursive=recursive))


def list_paths(hub: "HubServer", request: Request) -> Response:
    """Tree lines of named paths; the call is a form, not JSON."""
    files = hub.readable(request).resolve(request.params["revision"]).files
    return answer(paths_info(files, parse_qs(request.body.decode()).get("paths", [])))


def preupload(hub: "HubServer", request: Request) -> Response:
    """For each file to come, how to upload it, and what is there already under its name."""
    repo = hub.writable(request, proposal=request.proposes)
    files = repo.resolve(request.params["revision"]).files
    planned = []
    for file in request.json()["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample", ""))
        mode = "lfs" if wants_lfs(files, path, file["size"], sample) else "regular"
        known = {"oid": files[path].etag} if path in files else {}
        planned.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return answer({"files": planned})


def commit(hub: "HubServer", request: Request) -> Response:
    """One commit, to a branch or a pull request, or as a new pull request."""
    revision, opens = request.params["revision"], "create_pr" in request.query
    repo = hub.writable(request, proposal=request.proposes)
    ref = repo.target(revision, new_pull_request=opens)
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    made = repo.commit(ref, revision, lines, hub.signed_in(request))
    page = hub.web_url(repo)
    done = {"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}", "hookOutput": ""}
    if opens:
        done["pullRequestUrl"] = f"{page}/discussions/{ref.rpartition('/')[2]}"
    return answer(done)


def validate_yaml(_hub: "HubServer", request: Request) -> Response:
    """A README's metadata: there or not, fenced or not."""
    lines = request.json()["content"].splitlines()
    if not lines or lines[0] != "---":
        return answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    if "---" not in lines[1:]:
        return answer({"errors": [{"message": "The metadata is not closed with ---"}], "warnings": []}, 400)
    return answer({"errors": [], "warnings": []})


def lfs_batch(hub: "HubServer", request: Request) -> Response:
    """Where to put the objects that are not there yet; any reader may, to propose a change with them."""
    repo = hub.writable(request, proposal=True)
    verify = {"href": f"{hub.web_url(repo)}.git/info/lfs/verify"}
    objects = []
    for wanted in request.json()["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        line: dict[str, Any] = {"oid": oid, "size": size}
        if not LFS_OID.fullmatch(oid):
            line["error"] = {"code": 422, "message": "Not a sha256"}
        elif oid not in repo.lfs:
            line["actions"] = {"upload": {"href": hub.storage_url(repo, oid, size)}, "verify": verify}
        objects.append(line)
    return answer({"transfer": "basic", "objects": objects})


def lfs_verify(hub: "HubServer", request: Request) -> Response:
    """Whether an object arrived whole."""
    repo, wanted = hub.writable(request, proposal=True), request.json()
    if len(repo.lfs.get(wanted["oid"], b"")) != wanted["size"]:
        raise HubError("BadRequest", f"LFS object {wanted['oid']} is missing or of another size")
    return answer({})


def store(hub: "HubServer", request: Request) -> Response:
    """Take in an LFS object, if it is the one it should be."""
    repo, oid, size = hub.tickets[request.params["ticket"]]
    if len(request.body) != size or hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError("BadRequest", f"What was uploaded is not LFS object {oid} of {size} bytes")
    repo.lfs[oid] = request.body
    return Response(200, b"", {"ETag": f'"{oid}"'})


def fetch(hub: "HubServer", request: Request) -> Response:
    """Give out an LFS object."""
    repo, oid, _ = hub.tickets[request.params["ticket"]]
    return ranged(repo.lfs[oid], request.headers.get("Range"), {"ETag": f'"{oid}"'})


def resolve(hub: "HubServer", request: Request) -> Response:
    """A file: here if it is regular, at its storage address if it is in LFS."""
    repo = hub.readable(request)
    found, file = repo.file(request.params["revision"], request.params["path"])
    headers = {"X-Repo-Commit": found.oid, "ETag": f'"{file.etag}"'}
    if not file.lfs:
        return ranged(file.content, request.headers.get("Range"), headers)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return Response(302, b"", {**headers, "Location": hub.storage_url(repo, file.sha256, file.size)})


API = r"/api/(?P<type>models|datasets)/(?P<repo>[^/]+(?:/[^/]+)?)"
WEB = r"/(?:(?P<type>datasets)/)?(?P<repo>[^/]+(?:/[^/]+?)?)"
ROUTES: list[tuple[str, re.Pattern[str], Callable[["HubServer", Request], Response]]] = [
    (method, re.compile(pattern), endpoint)
    for method, pattern, endpoint in (
        ("GET", "/api/whoami-v2", whoami),
        ("POST", "/api/repos/create", create_repo),
        ("DELETE", "/api/repos/delete", delete_repo),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("GET", API, repo_info),
        ("GET", API + "/revision/(?P<revision>[^/]+)", repo_info),
        ("GET", API + "/auth-check(?P<write>/write)?", auth_check),
        ("GET", API + "/refs", list_refs),
        ("POST", API + "/branch/(?P<branch>[^/]+)", create_branch),
        ("POST", API + "/tag/(?P<revision>[^/]+)", create_tag),
        ("GET", API + "/commits/(?P<revision>[^/]+)", list_commits),
        ("GET", API + "/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", list_tree),
        ("POST", API + "/paths-info/(?P<revision>[^/]+)", list_paths),
        ("POST", API + "/preupload/(?P<revision>[^/]+)", preupload),
        ("POST", API + "/commit/(?P<revision>[^/]+)", commit),
        ("POST", WEB + r"\.git/info/lfs/objects/batch", lfs_batch),
        ("POST", WEB + r"\.git/info/lfs/verify", lfs_verify),
        ("PUT", "/storage/(?P<ticket>[^/]+)", store),
        ("GET", "/storage/(?P<ticket>[^/]+)", fetch),
        ("GET", WEB + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    )
]
