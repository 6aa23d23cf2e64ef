"""A reward behind HTTP, so that it can have its own environment: the other side of `HTTPReward`."""

import hmac
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

import torch
from torch import Tensor

from diffpolicy.alignment.reward import Reward, rate
from diffpolicy.alignment.rewards.wire import WireError, decode_question, encode_answer
from diffpolicy.training.errors import FeedbackError

SLOWEST = 30.0  # seconds a client may keep a connection waiting


def serve_reward(
    reward: Reward,
    port: int = 0,
    host: str = "127.0.0.1",
    token: str | None = None,
    device: torch.device | str = "cpu",
    max_bytes: int = 1 << 28,
) -> ThreadingHTTPServer:
    """Return a server of a reward; `serve_forever` runs it, `shutdown` and `server_close` end it.

    It answers POST with a question as `wire` says, of at most `max_bytes`, one at a time. Port 0 takes a free one,
    which is `server_port`. It listens to this machine only unless `host` says otherwise; then give it a `token` and
    put TLS in front of it. Questions that are none get 4xx, and what goes wrong in the reward 503 with its message.
    """
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = SLOWEST

        def do_POST(self) -> None:
            status, body = self._respond()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status == HTTPStatus.OK else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _respond(self) -> tuple[HTTPStatus, bytes]:
            given = self.headers.get("Authorization", "").encode()
            if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
                return HTTPStatus.UNAUTHORIZED, b"this server needs its bearer token"
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit() and len(length) < 19):
                return HTTPStatus.LENGTH_REQUIRED, b"a question says its Content-Length"
            if int(length) > max_bytes:
                return (
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"a question has at most {max_bytes} bytes".encode(),
                )
            try:
                pixels, labels = decode_question(self.rfile.read(int(length)))
            except WireError as error:
                return HTTPStatus.BAD_REQUEST, str(error).encode()
            images = torch.tensor(pixels, device=device).permute(0, 3, 1, 2).float() / 255.0
            return _rated(reward, images, labels, lock)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what goes wrong is said to the client."""

    return ThreadingHTTPServer((host, port), Handler)


def _rated(reward: Reward, images: Tensor, labels: list[object], lock: Lock) -> tuple[HTTPStatus, bytes]:
    try:
        with lock, torch.no_grad():
            return HTTPStatus.OK, encode_answer(rate(reward, images, labels))
    except FeedbackError as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode()
    except Exception as error:  # a reward that somebody else wrote: the server outlives its errors
        return HTTPStatus.SERVICE_UNAVAILABLE, f"the reward failed: {type(error).__name__}: {error}".encode()
