"""The policy server's answers: openpi's client works, refusals leave no trace, robots do not mix."""

import json

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from toy_runtime import CHUNK, ToyRuntime, answer, ask, reading, serving, toy_manifest, until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from diffpolicy.deploy import decisions, wire
from diffpolicy.deploy.decisions import WarmUpError
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.server import PolicyServer, ServerConfig, ServerError


@pytest.fixture(scope="module")
def served():
    with serving() as running:
        yield running


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")
def test_openpi_s_client_gets_actions(served):
    policy = WebsocketClientPolicy("127.0.0.1", served.port)
    assert policy.get_server_metadata()["policy"] == "toy"
    first = policy.infer(reading(0.25))
    np.testing.assert_array_equal(first["actions"], np.tile(np.float32([1, 0.25]), (CHUNK, 1)))
    assert first["actions"].dtype == np.float32
    second = policy.infer(reading(0.75))
    assert second["actions"][0].tolist() == [2, 0.75]
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"] > 0
    with pytest.raises(RuntimeError, match="shape: 'state' has shape"):
        policy.infer({**reading(), "state": np.zeros(4, np.float32)})
    assert policy.infer(reading())["actions"][0, 0] == 3
    policy._ws.close()  # it has no way of its own to leave


def test_a_reply_says_what_it_answers_and_how_long_it_holds(served):
    with served.client() as socket:
        reply = ask(socket, reading(0.25, __seq=41, __stamp=12.5))
        assert (reply["seq"], reply["stamp"], reply["policy_version"]) == (41, 12.5, "1.2.3")
        assert reply["valid_for"] == pytest.approx(CHUNK * 0.1)
        assert reply["feasible"] == pytest.approx(-0.25)
        assert reply["flags"] == ["cold"]
        assert ask(socket, reading(0.25, __seq=42, __stamp=12.6))["flags"] == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (reading(__seq=9) | {"state": np.float32([0, np.nan, 0])}, "not_finite"),
        (reading(__seq=9) | {"state": np.float32([0, np.inf, 0])}, "not_finite"),
        (reading(__seq=9) | {"state": np.zeros(7, np.float32)}, "shape"),
        (reading(__seq=9) | {"state": np.zeros(3, np.int32)}, "dtype"),
        ({"state": np.zeros(3, np.float32), "__seq": 9}, "keys"),
        (reading(__seq=9, __reset=True) | {"state": np.float32([0, np.nan, 0])}, "not_finite"),
    ],
)
def test_a_refused_request_reaches_neither_policy_nor_memory(served, message, code):
    with served.client() as socket:
        assert ask(socket, reading(__seq=1))["actions"][0, 0] == 1
        calls = served.runtime.calls
        refused = ask(socket, message)
        assert refused["error"]["code"] == code
        assert refused["seq"] == 9
        assert served.runtime.calls == calls
        assert ask(socket, reading(__seq=2))["actions"][0, 0] == 2


@pytest.mark.parametrize(
    ("x", "says"),
    [(1.0, "nan for vy of step 2"), (2.0, "the policy failed"), (3.0, "(4, 1)"), (4.0, "failed")],
)
def test_a_policy_that_fails_gives_an_error_and_starts_afresh(served, x, says):
    with served.client() as socket:
        assert ask(socket, reading(__seq=1))["actions"][0, 0] == 1
        failed = ask(socket, reading(x, __seq=2))
        assert failed["error"]["code"] == "policy"
        assert says in failed["error"]["message"]
        assert "secret" not in str(failed)
        assert "Traceback" not in str(failed)
        assert ask(socket, reading(__seq=3))["actions"][0, 0] == 1


def test_the_log_tells_of_a_policy_that_fails_with_one_traceback(caplog):
    with serving() as served, served.client() as socket:
        for number in range(5):
            assert ask(socket, reading(2.0, __seq=number))["error"]["code"] == "policy"
    told = [record for record in caplog.records if "the policy failed" in record.getMessage()]
    assert [record.exc_info is not None for record in told] == [True, False, False]  # times 1, 2 and 4
    assert "secret inside" in caplog.text


def test_the_memories_of_two_clients_do_not_mix(served):
    with served.client() as one, served.client() as other:
        for count in (1, 2, 3):
            assert ask(one, reading(0.25))["actions"][0].tolist() == [count, 0.25]
        assert ask(other, reading(0.5))["actions"][0].tolist() == [1, 0.5]
        assert ask(one, reading(0.25))["actions"][0, 0] == 4
        assert ask(other, reading(0.5))["actions"][0, 0] == 2
    seeds = served.runtime.seeds
    assert len(set(seeds)) == len(seeds)


def test_reset_begins_a_new_episode(served):
    with served.client() as socket:
        ask(socket, reading())
        assert ask(socket, reading())["actions"][0, 0] == 2
        assert ask(socket, reading(__reset=True))["actions"][0, 0] == 1
        assert ask(socket, reading(__reset=False))["actions"][0, 0] == 2


def test_the_policy_is_told_how_many_control_steps_have_passed(served):
    with served.client() as socket:
        # At 10 Hz; a clock that jumps back says nothing, and the plan is 8 steps long.
        for stamp in (100.0, 100.1, 100.4, 90.0, 90.0, 900.0):
            ask(socket, reading(__stamp=stamp))
        assert served.runtime.elapsed[-6:] == [None, 1, 3, None, 1, 8]


def test_stamps_that_nobody_s_clock_shows_do_no_harm(served):
    with served.client() as socket:
        for stamp in (-1.7e308, 1.7e308):
            assert ask(socket, reading(__stamp=stamp))["stamp"] == stamp
        assert served.runtime.elapsed[-1] == 8


def test_what_clients_tell_is_counted(served):
    before = served.metrics.shield["jerk"]
    with served.client() as socket:
        for count in (2, 5, 1):  # the client's counts begin again
            ask(socket, reading(__shield={"jerk": count}, __cost=0.5))
    until(lambda: served.metrics.clients == 0)
    assert served.metrics.shield["jerk"] - before == 6
    assert served.metrics.cost == 1.5


def test_a_text_frame_is_refused(served):
    with served.client() as socket:
        assert ask(socket, "hello").startswith("malformed")
        assert ask(socket, reading())["actions"][0, 0] == 1


def test_a_late_answer_is_dropped_and_told():
    runtime = ToyRuntime()
    with serving(runtime, deadline=0.2) as served, served.client() as socket, served.client() as other:
        assert ask(socket, reading(__seq=1))["actions"][0, 0] == 1
        assert "0.2 s" in ask(socket, reading(5.0, __seq=2))["error"]["message"]
        waiting = ask(other, reading(__seq=1))  # its turn never came
        assert waiting["error"]["code"] == "deadline"
        runtime.gate.set()
        until(lambda: served.metrics.late == 1)
        # The robot never saw those actions: its memory has not moved.
        assert ask(socket, reading(__seq=3))["actions"][0, 0] == 2
        assert served.metrics.refusals["deadline"] == 2


def test_a_policy_that_never_answers_does_not_keep_the_server_from_ending(monkeypatch):
    monkeypatch.setattr(decisions, "STALL", 0.1)
    runtime = ToyRuntime()
    with serving(runtime, deadline=3600.0) as served, served.client() as socket:
        socket.send(wire.encode(reading(5.0, __seq=1)))
        assert runtime.entered.wait(5)
        served.stop()
        assert answer(socket)["error"]["code"] == "stopping"
    runtime.gate.set()


def test_a_policy_that_does_not_come_back_is_no_longer_healthy(monkeypatch):
    monkeypatch.setattr(decisions, "STALL", 0.1)
    runtime = ToyRuntime()
    with serving(runtime, deadline=0.01) as served, served.client() as socket:
        assert ask(socket, reading(5.0, __seq=1))["error"]["code"] == "deadline"
        until(lambda: served.get("/healthz")[2] == b"stalled\n")
        assert served.get("/healthz")[0] == 503
        runtime.gate.set()
        until(lambda: served.get("/healthz")[0] == 200)


def test_a_defect_of_the_server_ends_it_with_its_exception(monkeypatch):
    def broken(self, *arguments):
        raise ZeroDivisionError

    def ask_once():
        with serving() as served, served.client() as socket:
            socket.send(wire.encode(reading()))
            with pytest.raises(ConnectionClosed):
                answer(socket)

    monkeypatch.setattr(decisions.Decisions, "_reply", broken)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ask_once()


def test_the_newest_request_of_a_client_replaces_the_one_that_waits():
    runtime = ToyRuntime()
    with serving(runtime) as served, served.client() as socket:
        socket.send(wire.encode(reading(5.0, __seq=1)))
        assert runtime.entered.wait(5)
        socket.send(wire.encode(reading(0.25, __seq=2, __reset=True)))
        socket.send(wire.encode(reading(0.5, __seq=3)))
        superseded = answer(socket)
        assert (superseded["error"]["code"], superseded["seq"]) == ("superseded", 2)
        runtime.gate.set()
        assert answer(socket)["seq"] == 1
        # The episode that the replaced request began is begun nevertheless.
        assert answer(socket)["actions"][0].tolist() == [1, 0.5]


def test_a_decision_for_the_last_episode_does_not_write_into_this_one():
    runtime = ToyRuntime()
    with serving(runtime) as served, served.client() as socket:
        ask(socket, reading(__seq=0))
        socket.send(wire.encode(reading(5.0, __seq=1)))
        assert runtime.entered.wait(5)
        socket.send(wire.encode(reading(0.5, __seq=2, __reset=True)))
        until(lambda: served.metrics.requests == 3)
        runtime.gate.set()
        assert answer(socket)["actions"][0, 0] == 2
        assert answer(socket)["actions"][0, 0] == 1


def test_it_is_not_ready_before_the_policy_is_warm():
    class Slow(ToyRuntime):
        def act(self, observation, memory, *, elapsed=None):
            assert self.gate.wait(10)
            return super().act(observation, memory)

    runtime = Slow()
    with serving(runtime, wait=False) as served:
        until(lambda: served.port > 0)
        status, _, body = served.get("/healthz")
        assert (status, body) == (503, b"warming up\n")
        assert served.get("/metrics")[2].count(b"diffpolicy_ready 0") == 1
        assert json.loads(served.get("/status.json")[2])["state"] == "warming up"
        runtime.gate.set()
        with served.client() as socket:  # the greeting waits until the policy is ready
            assert ask(socket, reading())["actions"][0, 0] == 1
        assert served.get("/healthz")[0] == 200


def test_a_policy_that_cannot_act_is_not_served():
    class Broken(ToyRuntime):
        def act(self, observation, memory, *, elapsed=None):
            return super().act({**observation, "state": np.float32([1, 0, 0])}, memory)

    with pytest.raises(WarmUpError, match="nan for vy"), serving(Broken()):
        pass


def test_a_configuration_does_not_show_its_token():
    assert "correct-horse" not in repr(ServerConfig(token="correct-horse-battery"))


def test_the_deadline_is_what_a_chunk_lasts():
    assert PolicyServer(ToyRuntime(), ServerConfig()).decisions.deadline == pytest.approx(0.4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"deadline": 0.0},
        {"deadline": float("inf")},
        {"max_clients": 0},
        {"idle_timeout": -1.0},
        {"max_message": 0},
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ServerError, match=next(iter(wrong))):
        ServerConfig(**wrong)


def test_an_observation_horizon_of_one_takes_single_readings_too():
    with serving(ToyRuntime(toy_manifest(observation_horizon=1))) as served, served.client() as socket:
        single, history = reading(0.25), {key: value[None] for key, value in reading(0.5).items()}
        assert ask(socket, single)["actions"][0].tolist() == [1, 0.25]
        assert ask(socket, history)["actions"][0].tolist() == [2, 0.5]


def test_the_greeting_is_the_manifest(served):
    with connect(f"ws://127.0.0.1:{served.port}", proxy=None) as socket:
        greeting = wire.decode(socket.recv())
    about = greeting.pop("server")
    assert Manifest.from_dict(greeting) == served.runtime.manifest
    assert about["protocol"] == 1
    assert about["deadline"] == 5.0
