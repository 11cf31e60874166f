"""HTTP for the test Hub: one port that answers calls, and what calls and answers are."""

import json
import re
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .hub_files import HubError

if TYPE_CHECKING:
    from .hub_server import HubServer

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
    """One answer; with status 0, none: the connection is dropped. `is_cut`: it is dropped halfway through the body."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False


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
    server: "Listener"

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        request = Request(self.command, path, parse_qs(query), self.headers, self._body())
        response = self.server.hub.answer(request)
        self.close_connection |= response.is_cut or not response.status
        if not response.status:
            return
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: len(response.body) // 2] if response.is_cut else response.body)

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


class Listener(ThreadingHTTPServer):
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
