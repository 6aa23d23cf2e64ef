"""The server's HTTP side: who may look, and the pages that there are to look at."""

import json
import time
from collections.abc import Callable
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from diffpolicy.deploy import access, status_page
from diffpolicy.deploy.decisions import Decisions

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every page: nothing is loaded from elsewhere, nothing is stored, and no other page may frame it."""

TEXT = "text/plain; charset=utf-8"
ONCE = ("Host", "Authorization", "Upgrade", "Origin")  # headers of which a second one would be ambiguous


class Pages:
    """Answers what comes before a websocket is open. `state()` is the server's, `token` None lets this machine in."""

    def __init__(
        self, decisions: Decisions, state: Callable[[], str], token: str | None, max_clients: int
    ) -> None:
        self._decisions = decisions
        self._metrics = decisions.metrics
        self._state = state
        self._token = token
        self._max_clients = max_clients
        self._begun = time.monotonic()

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return a page, a refusal, or None where a websocket may be opened."""
        path = request.path.partition("?")[0]
        for name in ONCE:
            if len(request.headers.get_all(name)) > 1:
                return self._reject("headers", HTTPStatus.BAD_REQUEST, f"{name} is given more than once")
        if path == "/healthz":
            state = self._state()
            code = HTTPStatus.OK if state == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
            return page(code, f"{state}\n".encode())
        if self._token is None and not access.names_this_machine(request.headers.get("Host")):
            return self._reject(
                "host", HTTPStatus.FORBIDDEN, "this server is for this machine: ask for localhost"
            )
        if self._token and not access.authorised(request.headers.get("Authorization"), self._token):
            return self._reject("token", HTTPStatus.UNAUTHORIZED, "this server asks for its token")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return self._websocket(path, request)
        return self._page(path)

    def _websocket(self, path: str, request: Request) -> Response | None:
        if path != "/":
            return page(HTTPStatus.NOT_FOUND, b"the policy is at /\n")
        if "Origin" in request.headers:  # a web page that a browser shows must not drive the robot
            return self._reject("origin", HTTPStatus.FORBIDDEN, "browsers may look, not drive")
        if self._state() == "stopping":
            return self._reject("stopping", HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")
        if self._metrics.clients >= self._max_clients:
            return self._reject(
                "full", HTTPStatus.SERVICE_UNAVAILABLE, "as many clients as may be are connected"
            )
        return None

    def _page(self, path: str) -> Response:
        if path == "/":
            return page(HTTPStatus.OK, status_page.html(), "text/html; charset=utf-8")
        if path == "/status.json":
            figures = status_page.status(self._decisions, self._state(), time.monotonic() - self._begun)
            return page(HTTPStatus.OK, json.dumps(figures, allow_nan=False).encode(), "application/json")
        if path == "/metrics":
            manifest = self._decisions.manifest
            info = {key: str(getattr(manifest, key)) for key in ("policy", "arm", "task", "version")}
            text = self._metrics.exposition(self._state() == "ready", info)
            return page(HTTPStatus.OK, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
        head, _, index = path.rpartition("/")
        if head == "/frame" and index.isdecimal() and len(index) < 4:
            image = status_page.picture(self._decisions, int(index))
            if image is not None:
                return page(HTTPStatus.OK, image, "image/jpeg")
        return page(HTTPStatus.NOT_FOUND, b"there are /, /status.json, /metrics and /healthz\n")

    def _reject(self, reason: str, code: HTTPStatus, text: str) -> Response:
        self._metrics.rejected[reason] += 1
        response = page(code, f"{text}\n".encode())
        if code is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Basic realm="diffpolicy: the password is the token"'
        return response


def page(code: HTTPStatus, content: bytes, kind: str = TEXT) -> Response:
    """Return a response with `SECURITY` that ends its connection."""
    headers = Headers(SECURITY)
    headers.update({"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close"})
    return Response(code.value, code.phrase, headers, content)
