"""A small Hub in the test process: the part of the Hugging Face Hub's HTTP protocol that its client speaks.

Spoken: creating, deleting and describing model and dataset repositories; refs, trees, paths-info, commit lists;
preupload, the ndjson commit call, pull requests opened by a commit; the Git LFS batch API with the `basic`
transfer, upload and verify; `/resolve/` with ETags, Range requests and, for LFS files, the redirect to storage
of another origin; bearer tokens, private repositories, and the `X-Error-Code`s that become the client's errors.

Not spoken, on purpose: Xet, multipart uploads, pagination, `expand`, discussions, search, Spaces, gated
repositories, gzip, the dataset viewer. A README's metadata is only checked for being fenced. The client never
falls back from `hf_xet` for an upload, so it must be told not to use it: CLIENT_SWITCHES.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from .hub_content import LFS_OID, Content, HubError, Repo, paths_info, tree, wants_lfs

# Environment variables for a child process; in a process that has imported the client, constants to set to True.
CLIENT_SWITCHES = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
REASONS = {"BadRequest": 400, "Unauthorized": 401, "Forbidden": 403, "Conflict": 409, "PreconditionFailed": 412}


@dataclass
class Request:
    """One call: `path` as sent, `user` the token's namespace, `params` what the route found in the path."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    user: str | None = None
    params: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def proposes(self) -> bool:
        """Whether it is for a pull request, which any reader with a token may write to."""
        return "create_pr" in self.query or self.params["revision"].startswith("refs/pr/")


@dataclass
class Response:
    """One answer; with status 0, none: the connection is dropped."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


def refusal(error: HubError, user: str | None) -> Response:
    """An error as the Hub words it; what may not be seen asks a stranger for a token."""
    message = re.sub(r"[^ -~]", "?", str(error))  # it is a header too
    headers = {"X-Error-Message": message}
    if error.code not in REASONS:
        headers["X-Error-Code"] = error.code
    if error.commit:
        headers["X-Repo-Commit"] = error.commit
    hidden = error.code == "RepoNotFound" and user is None
    return answer({"error": message}, 401 if hidden else REASONS.get(error.code, 404), headers)


def ranged(content: bytes, wanted: str | None, headers: dict[str, str]) -> Response:
    """The content, or the one range of it that a Range header asks for."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if match is None or match.group() == "bytes=-":
        return Response(200, content, headers)
    first, last, size = match[1], match[2], len(content)
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        return Response(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
    return Response(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive: reads one call whole, has the hub answer it, writes the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: "_Listener"

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        request = Request(self.command, path, parse_qs(query), self.headers, self._body())
        response = self.server.hub.answer(request)
        if not response.status:
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the base class names them so

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(chunks)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Nothing: tests read `HubServer.requests`."""


class _Listener(ThreadingHTTPServer):
    """One port of the hub; stopping it also closes the connections that clients keep alive."""

    request_queue_size = 128

    def __init__(self, hub: "HubServer") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error; anything else is a mistake in this module, and shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Stop accepting, and hang up on everyone."""
        self.shutdown()
        self.server_close()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Fault:
    """A failure that the next `left` matching calls meet; status 0 hangs up."""

    left: int
    status: int
    method: str | None
    path_contains: str
    lose_reply: bool

    def meets(self, request: Request) -> bool:
        """Whether this call fails; counts it if so."""
        hit = self.left > 0 and self.method in (None, request.method) and self.path_contains in request.path
        self.left -= hit
        return hit


class HubServer:
    """The server, running from the start of its `with` block to the end.

    `tokens` maps each valid token to the namespace it speaks for: it may read and write that namespace's
    repositories, read public ones, and write to pull requests on them. `url` is the endpoint to give a client,
    `requests` every call so far as "METHOD path", without its query.
    """

    def __init__(self, tokens: Mapping[str, str] | None = None) -> None:
        self.tokens = dict(tokens or {})
        self.requests: list[str] = []
        self.content = Content()
        self.tickets: dict[str, tuple[Repo, str, int]] = {}  # storage paths handed out: repo, sha256, size
        self._faults: list[Fault] = []
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        # Storage is another origin, as on the Hub: the client follows same-origin redirects differently.
        self._listener, self._storage = _Listener(self), _Listener(self)
        self.url = self._listener.url
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
        self._storage.stop()

    def environ(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment for a child process whose only Hub is this one and whose only cache is `home`."""
        ours = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_CACHE")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= dict.fromkeys(CLIENT_SWITCHES, "1")
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*"}
        return env | ({"HF_TOKEN": token} if token else {})

    def repo(self, repo_id: str, repo_type: str | None = None) -> Repo:
        """A repository as the server keeps it; a model before a dataset where the type is left out."""
        is_model = ("model", repo_id) in self.content.repos
        return self.content.find(repo_type or ("model" if is_model else "dataset"), repo_id)

    def commits(self, repo_id: str, revision: str = "main") -> list[tuple[str, str]]:
        """(sha, message) of the commits of a revision, last one first."""
        return [(commit.oid, commit.title) for commit in self.repo(repo_id).log(revision)]

    def file(self, repo_id: str, revision: str, path: str) -> bytes:
        """The content of a file at a revision."""
        return self.repo(repo_id).file(revision, path)[1].content

    def fail_next(
        self, n: int, status: int, method: str | None = None, path_contains: str = "", *, lose_reply: bool = False
    ) -> None:
        """Answer the next n matching calls with a status; 0 hangs up, `lose_reply` does the work all the same."""
        self._faults.append(Fault(n, status, method, path_contains, lose_reply))

    def answer(self, request: Request) -> Response:
        """What to say to one call; calls are answered one at a time."""
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
            fault = next((fault for fault in self._faults if fault.meets(request)), None)
            if fault is None or fault.lose_reply:
                response = self._dispatch(request)
            return response if fault is None else answer({"error": "Injected fault"}, fault.status)

    def _dispatch(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        try:
            request.user = self._user(request.headers.get("Authorization"))
            for route_method, pattern, endpoint in ROUTES:
                if method == route_method and (match := pattern.fullmatch(request.path)):
                    request.params = {name: unquote(value) for name, value in match.groupdict("").items()}
                    return endpoint(self, request)
        except HubError as error:
            return refusal(error, request.user)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return refusal(HubError("BadRequest", repr(error)), request.user)
        return answer({"error": "Sorry, we can't find the page you are looking for."}, 404)

    def _user(self, authorization: str | None) -> str | None:
        if authorization is None:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in self.tokens:
            raise HubError("Unauthorized", "Invalid credentials in Authorization header")
        return self.tokens[token]

    def signed_in(self, request: Request) -> str:
        """The namespace of the caller, who must have one."""
        if request.user is None:
            raise HubError("Unauthorized", "Invalid username or password.")
        return request.user

    def readable(self, request: Request) -> Repo:
        """The repository the path names, if the caller may know of it."""
        repo_type = (request.params["type"] or "models").removesuffix("s")
        repo = self.content.find(repo_type, request.params["repo"])
        if repo.private and request.user != repo.owner:
            raise HubError("RepoNotFound", "Repository not found")
        return repo

    def writable(self, request: Request, *, proposal: bool = False) -> Repo:
        """The repository the path names, if the caller may change it, or propose a change."""
        repo = self.readable(request)
        if proposal:
            self.signed_in(request)
        else:
            self.own(request, repo.owner)
        return repo

    def own(self, request: Request, namespace: str) -> str:
        """The caller's namespace, which must be this one."""
        if self.signed_in(request) != namespace:
            raise HubError("Forbidden", f"You don't have the rights to write under the namespace {namespace}")
        return namespace

    def web_url(self, repo: Repo) -> str:
        """The address of a repository's page."""
        return f"{self.url}/{'datasets/' if repo.type == 'dataset' else ''}{repo.id}"

    def storage_url(self, repo: Repo, oid: str, size: int) -> str:
        """An address that says itself which LFS object it is for, and so needs no token."""
        ticket = secrets.token_hex(16)
        self.tickets[ticket] = (repo, oid, size)
        return f"{self._storage.url}/storage/{ticket}"


def whoami(hub: HubServer, request: Request) -> Response:
    """The caller."""
    name = hub.signed_in(request)
    access = {"type": "access_token", "accessToken": {"displayName": name, "role": "write"}}
    return answer({"type": "user", "id": name, "name": name, "fullname": name, "orgs": [], "auth": access})


def create_repo(hub: HubServer, request: Request) -> Response:
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


def delete_repo(hub: HubServer, request: Request) -> Response:
    """Forget a repository."""
    asked = request.json()
    request.params = {
        "type": f"{asked.get('type') or 'model'}s",
        "repo": f"{asked.get('organization') or hub.signed_in(request)}/{asked['name']}",
    }
    repo = hub.writable(request)
    del hub.content.repos[repo.type, repo.id]
    return answer({})


def repo_info(hub: HubServer, request: Request) -> Response:
    """A repository as it stands at a revision."""
    repo = hub.readable(request)
    return answer(repo.info(request.params.get("revision") or "main", sizes="blobs" in request.query))


def list_refs(hub: HubServer, request: Request) -> Response:
    """Branches, tags and pull requests."""
    return answer(hub.readable(request).list_refs())


def create_branch(hub: HubServer, request: Request) -> Response:
    """A new branch at a starting point."""
    repo, branch = hub.writable(request), request.params["branch"]
    if branch.startswith("refs/"):
        raise HubError("BadRequest", f"Invalid reference for a branch: {branch}")
    repo.add_ref(f"refs/heads/{branch}", request.json().get("startingPoint") or "main")
    return answer({})


def create_tag(hub: HubServer, request: Request) -> Response:
    """A new tag at a revision."""
    hub.writable(request).add_ref(f"refs/tags/{request.json()['tag']}", request.params["revision"])
    return answer({})


def list_commits(hub: HubServer, request: Request) -> Response:
    """The commits of a revision, last one first."""
    return answer([commit.info() for commit in hub.readable(request).log(request.params["revision"])])


def list_tree(hub: HubServer, request: Request) -> Response:
    """The listing of a folder."""
    files = hub.readable(request).resolve(request.params["revision"]).files
    recursive = request.query.get("recursive", [""])[0].lower() == "true"
    return answer(tree(files, request.params["path"], recursive=recursive))


def list_paths(hub: HubServer, request: Request) -> Response:
    """Tree lines of named paths; the call is a form, not JSON."""
    files = hub.readable(request).resolve(request.params["revision"]).files
    return answer(paths_info(files, parse_qs(request.body.decode()).get("paths", [])))


def preupload(hub: HubServer, request: Request) -> Response:
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


def commit(hub: HubServer, request: Request) -> Response:
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


def validate_yaml(_hub: HubServer, request: Request) -> Response:
    """A README's metadata: there or not, fenced or not."""
    lines = request.json()["content"].splitlines()
    if not lines or lines[0] != "---":
        return answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    if "---" not in lines[1:]:
        return answer({"errors": [{"message": "The metadata is not closed with ---"}], "warnings": []}, 400)
    return answer({"errors": [], "warnings": []})


def lfs_batch(hub: HubServer, request: Request) -> Response:
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


def lfs_verify(hub: HubServer, request: Request) -> Response:
    """Whether an object arrived whole."""
    repo, wanted = hub.writable(request, proposal=True), request.json()
    if len(repo.lfs.get(wanted["oid"], b"")) != wanted["size"]:
        raise HubError("BadRequest", f"LFS object {wanted['oid']} is missing or of another size")
    return answer({})


def store(hub: HubServer, request: Request) -> Response:
    """Take in an LFS object, if it is the one it should be."""
    repo, oid, size = hub.tickets[request.params["ticket"]]
    if len(request.body) != size or hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError("BadRequest", f"What was uploaded is not LFS object {oid} of {size} bytes")
    repo.lfs[oid] = request.body
    return Response(200, b"", {"ETag": f'"{oid}"'})


def fetch(hub: HubServer, request: Request) -> Response:
    """Give out an LFS object."""
    repo, oid, _ = hub.tickets[request.params["ticket"]]
    return ranged(repo.lfs[oid], request.headers.get("Range"), {"ETag": f'"{oid}"'})


def resolve(hub: HubServer, request: Request) -> Response:
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
ROUTES: list[tuple[str, re.Pattern[str], Callable[[HubServer, Request], Response]]] = [
    (method, re.compile(pattern), endpoint)
    for method, pattern, endpoint in (
        ("GET", "/api/whoami-v2", whoami),
        ("POST", "/api/repos/create", create_repo),
        ("DELETE", "/api/repos/delete", delete_repo),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("GET", API, repo_info),
        ("GET", API + "/revision/(?P<revision>[^/]+)", repo_info),
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
