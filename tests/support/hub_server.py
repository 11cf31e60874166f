"""A small Hub in the test process: the part of the Hugging Face Hub's HTTP protocol that its client speaks.

Spoken: creating, deleting and describing model and dataset repositories; refs, trees, paths-info, commit lists;
preupload, the ndjson commit call, pull requests opened by a commit; the Git LFS batch API with the `basic`
transfer, upload and verify; `/resolve/` with ETags, Range requests and, for LFS files, the redirect to storage
of another origin; bearer tokens, private repositories, and the `X-Error-Code`s that become the client's errors.

Not spoken, on purpose: Xet, multipart uploads, pagination, `expand`, discussions, search, Spaces, gated
repositories, gzip, the dataset viewer. A README's metadata is only checked for being fenced. The client never
falls back from `hf_xet` for an upload, so it must be told not to use it: CLIENT_SWITCHES.
"""

import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from .hub_content import Content, Repo
from .hub_endpoints import ROUTES
from .hub_files import HubError
from .hub_http import Listener, Request, Response, answer, refusal

# Environment variables for a child process.
CLIENT_SWITCHES = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")


@dataclass
class Fault:
    """A failure that the next `left` matching calls meet; status 0 hangs up, 200 hangs up halfway."""

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
        self._listener, self._storage = Listener(self), Listener(self)
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
        """Answer the next n matching calls with a status; `lose_reply` does the work all the same.

        With 0 the connection is dropped without an answer, with 200 halfway through the right one.
        """
        self._faults.append(Fault(n, status, method, path_contains, lose_reply))

    def answer(self, request: Request) -> Response:
        """What to say to one call; calls are answered one at a time."""
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
            fault = next((fault for fault in self._faults if fault.meets(request)), None)
            if fault is None or fault.lose_reply or fault.status == 200:
                response = self._dispatch(request)
                if fault is None or fault.status == 200:
                    return replace(response, is_cut=fault is not None)
            return answer({"error": "Injected fault"}, fault.status)

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
        if repo.private and request.user not in {repo.owner, *repo.readers}:
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
