"""A reward that runs elsewhere, in its own environment or on its own machine, asked over HTTP."""

import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from torch import Tensor

from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.rewards.images import as_bytes
from diffpolicy.alignment.rewards.wire import WireError, decode_answer, encode_question
from diffpolicy.training.errors import FeedbackError

BUSY = 429  # too many requests: the one client error that waiting helps


@dataclass(frozen=True)
class HTTPReward(Reward):
    """The rewards that a server gives to images; the format is that of `wire`, `serve_reward` is such a server.

    A server that cannot be reached, does not answer within `timeout` seconds, or answers 429 or 5xx is asked again up
    to `retries` times, after `backoff`, 2 `backoff`, 4 `backoff` ... seconds. `token` is sent as a bearer token. An
    answer has at most `max_bytes`; redirects are not followed.
    """

    url: str
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 1.0
    token: str | None = field(default=None, repr=False)
    max_bytes: int = 1 << 24

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise ValueError(
                f"a reward server is named as http://host:port or https://host, not {self.url!r}"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ValueError("a token is printable ASCII text; this one would not be a header")
        if not self.timeout > 0.0 or self.retries < 0 or self.backoff < 0.0 or self.max_bytes < 1:
            raise ValueError(
                "a reward server needs timeout > 0, retries >= 0, backoff >= 0 and max_bytes >= 1, got "
                f"{self.timeout}, {self.retries}, {self.backoff} and {self.max_bytes}"
            )

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the server's rewards of images (B, C, H, W) in [0, 1], which travel as bytes.

        Raises:
            FeedbackError: if there are none after all retries, or they are not rewards of these images.
        """
        try:
            question = encode_question(as_bytes(samples), labels)
            return decode_answer(self._ask(question), len(samples), samples.device)
        except WireError as error:
            raise FeedbackError(f"the reward server {self.url}: {error}") from error

    def _ask(self, question: bytes) -> bytes:
        """Return the body of the answer."""
        for attempt in range(self.retries + 1):
            try:
                status, body = self._post(question)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if status == http.client.OK:
                    return body
                trouble = f"status {status}: {body[:300].decode(errors='replace')}"
                if status != BUSY and status < http.client.INTERNAL_SERVER_ERROR:
                    raise FeedbackError(
                        f"the reward server {self.url} refuses the question ({trouble}); "
                        "look at its address, its token and its format"
                    )
            if attempt < self.retries:
                time.sleep(self.backoff * 2**attempt)
        raise FeedbackError(
            f"the reward server {self.url} gave no rewards in {self.retries + 1} attempts (the last: {trouble}); "
            "start it, then go on from the checkpoint"
        )

    def _post(self, question: bytes) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        headers = {"Content-Type": "application/octet-stream"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", path, question, headers)
            answer = connection.getresponse()
            body = answer.read(self.max_bytes + 1)
        finally:
            connection.close()
        if len(body) > self.max_bytes:
            raise WireError(f"its answer is larger than {self.max_bytes} bytes")
        return answer.status, body


def _has_port(parts: SplitResult) -> bool:
    """Return whether an address leaves its port out, or has one from 1 to 65535."""
    try:
        return parts.port != 0
    except ValueError:
        return False
