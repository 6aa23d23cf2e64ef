"""Rewards over HTTP: exact answers, bad servers, bad clients."""

import http.client
import io
import json
import math
import pickle
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffpolicy.alignment.reward import Reward, Rewards, rate
from diffpolicy.alignment.rewards import HTTPReward, JPEGSize, as_bytes, serve_reward
from diffpolicy.alignment.rewards.wire import WireError, decode_answer, decode_question, encode_question
from diffpolicy.training.errors import FeedbackError

IMAGES = torch.rand(3, 3, 16, 8, generator=torch.Generator().manual_seed(0))
GOOD = b'{"rewards": [1, 2.5, -3]}'


class Lengths(Reward):
    """Rates the lengths of prompts, and fails on one."""

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        if "fail" in labels:
            raise RuntimeError("out of paper")
        lengths = torch.tensor([float(len(label)) for label in labels])
        return Rewards(lengths, {"mean": samples.flatten(1).mean(1)}, cost=-lengths)


@contextmanager
def running(server: HTTPServer) -> Iterator[str]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answering(*answers: tuple[int, bytes]) -> tuple[HTTPServer, list[bytes]]:
    """Return a server that gives these answers one after the other, and what it was asked."""
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return HTTPServer(("127.0.0.1", 0), Handler), asked


def test_a_reward_is_the_same_over_http() -> None:
    images = torch.tensor(as_bytes(IMAGES)).permute(0, 3, 1, 2) / 255.0
    with running(serve_reward(JPEGSize())) as url:
        there, here = rate(HTTPReward(url), IMAGES, ["a"] * 3), JPEGSize()(images, ["a"] * 3)
    torch.testing.assert_close(there.total, here.total, rtol=0.0, atol=0.0)
    torch.testing.assert_close(there.terms["jpeg_kb"], here.terms["jpeg_kb"], rtol=0.0, atol=0.0)
    with running(serve_reward(Lengths())) as url:
        rewards = rate(HTTPReward(url), IMAGES, ["a", "hat", "größe"])
        assert rewards.total.tolist() == [1.0, 3.0, 5.0]
        assert rewards.cost is not None
        assert rewards.cost.tolist() == [-1.0, -3.0, -5.0]
        with pytest.raises(FeedbackError, match="out of paper"):
            HTTPReward(url, retries=0)(IMAGES, ["a", "fail", "b"])
        with pytest.raises(FeedbackError, match="labels travel as JSON"):
            HTTPReward(url)(IMAGES, [object()] * 3)


def test_questions_are_npy_files_that_numpy_reads() -> None:
    pixels = as_bytes(IMAGES)
    question = encode_question(pixels, ["x", "y", "z"])
    start = 4 + struct.unpack(">I", question[:4])[0]
    np.testing.assert_array_equal(np.load(io.BytesIO(question[start:]), allow_pickle=False), pixels)
    stored = io.BytesIO()
    np.save(stored, pixels)
    assert question[start:] == stored.getvalue()
    read, labels = decode_question(question)
    np.testing.assert_array_equal(read, pixels)
    assert labels == ["x", "y", "z"]


def test_what_may_pass_is_tried_again_and_what_will_not_is_not() -> None:
    server, asked = answering((503, b"busy"), (429, b"slow"), (200, GOOD))
    with running(server) as url:
        assert HTTPReward(url, retries=2, backoff=0.0)(IMAGES, [0, 1, 2]).total.tolist() == [1.0, 2.5, -3.0]
        assert len(asked) == 3
        assert asked[0] == asked[2]
    server, asked = answering((503, b"busy"))
    with running(server) as url, pytest.raises(FeedbackError, match=r"2 attempts .*status 503: busy"):
        HTTPReward(url, retries=1, backoff=0.0)(IMAGES, [0, 1, 2])
    server, asked = answering((404, b"not here"))
    with running(server) as url, pytest.raises(FeedbackError, match=r"refuses .*not here"):
        HTTPReward(url, retries=3, backoff=0.0)(IMAGES, [0, 1, 2])
    assert len(asked) == 1
    with pytest.raises(FeedbackError, match=r"2 attempts .*start it"):
        HTTPReward(url, retries=1, backoff=0.0)(IMAGES, [0, 1, 2])  # nobody listens any more


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "not JSON"),
        (pickle.dumps([1.0, 2.0, 3.0]), "not JSON"),
        (b"[1, 2, 3]", "JSON object"),
        (b'{"rewards": [1, 2]}', "list of 3 numbers"),
        (b'{"rewards": [1, NaN, 2]}', "of sample 1 is 'nan'"),
        (b'{"rewards": [1, 2, true]}', "of sample 2"),
        (b'{"rewards": [1, 2, 1' + b"0" * 100 + b"]}", "of sample 2"),
        (b'{"rewards": [1, 2, 3], "terms": {"x": "y"}}', "'x' is a list of 3"),
        (b" " * 2000 + GOOD, "larger than 1000 bytes"),
        (b"[" * 900, "not JSON"),
    ],
)
def test_bad_answers_are_refused(body: bytes, message: str) -> None:
    server, _ = answering((200, body))
    with running(server) as url, pytest.raises(FeedbackError, match=message):
        HTTPReward(url, retries=0, max_bytes=1000)(IMAGES, [0, 1, 2])


def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10.0)
    try:
        connection.putrequest("POST", "/")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_bad_clients_are_told_so_and_the_server_goes_on() -> None:
    good = encode_question(as_bytes(IMAGES), ["a", "b", "c"])
    start = 4 + struct.unpack(">I", good[:4])[0]
    pickled = io.BytesIO()
    np.save(pickled, np.array([print], dtype=object), allow_pickle=True)
    huge = good[:start] + good[start:].replace(b"(3, 16, 8, 3)", b"(999999999, 999999999, 999999999, 3)")
    bad = [
        b"",
        b"\x00" * 40,
        b"\xff" * 40,
        good[:-1],
        good[:start] + pickled.getvalue(),
        huge,
        pickle.dumps(1),
    ]
    with running(serve_reward(Lengths(), token="secret", max_bytes=10_000)) as url:
        key = {"Authorization": "Bearer secret"}
        for body in bad:
            assert post(url, body, key | {"Content-Length": str(len(body))})[0] == 400
        assert post(url, b"", key)[0] == 411
        assert post(url, b"", key | {"Content-Length": "-5"})[0] == 411
        assert post(url, b"", key | {"Content-Length": "10001"})[0] == 413
        assert post(url, good, {"Content-Length": str(len(good))})[0] == 401
        with pytest.raises(FeedbackError, match="token"):
            HTTPReward(url, token="wrong")(IMAGES, ["a", "b", "c"])
        assert HTTPReward(url, token="secret")(IMAGES, ["a", "b", "c"]).total.tolist() == [1.0] * 3


@pytest.mark.parametrize("url", ["localhost:80", "ftp://host", "http://", "http://host:99999"])
def test_addresses_are_checked(url: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|Port"):
        HTTPReward(url)


def test_tokens_are_not_shown() -> None:
    assert "secret" not in repr(HTTPReward("http://host", token="secret"))
    with pytest.raises(ValueError, match="printable"):
        HTTPReward("http://host", token="a\nb")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["rewards", "terms", "cost"]), inner)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_rewards_or_an_error(message: bytes) -> None:
    try:
        rewards = decode_answer(message, 2)
    except WireError:
        return
    assert rewards.total.shape == (2,)
    assert all(math.isfinite(value) for value in rewards.total.tolist())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_a_question_is_harmless(data: st.DataObject) -> None:
    question = bytearray(encode_question(as_bytes(IMAGES[:1, :, :2, :2]), ["a"]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(question) - 1))
        question[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        pixels, labels = decode_question(bytes(question))
    except WireError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 4
    assert len(pixels) == len(labels)
