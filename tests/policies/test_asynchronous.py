"""Decisions that take time: no action is repeated or left out, and frozen actions are kept."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffpolicy.policies import Memory, Observation, PolicyError
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.asynchronous import AsynchronousExecutor, DelayedPolicy
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.guard import Guard


def planner(analytic: SimpleNamespace, name: str, spread: float = 0.0, **options: Any) -> ChunkPolicy:
    return ChunkPolicy(analytic.AnalyticModel(spread), parse_arm(name), clip=None, **options)


@pytest.mark.parametrize("waiting", ["naive", "frozen"])
@pytest.mark.parametrize("delay", [0, 1, 3, 7])
@pytest.mark.parametrize("name", ["ddim_3@4", "rti_2_1_0", "warm_60_30_10@6", "soft_20_10"])
def test_no_action_is_repeated_or_left_out(
    analytic: SimpleNamespace, waiting: Any, delay: int, name: str
) -> None:
    """The action for control step t is t/100: a delayed plan joins in where time has got to."""
    delayed = DelayedPolicy(planner(analytic, name), delay, waiting)
    memory, actions, now = delayed.start(1, 0), [], 0
    while now < 30:
        chunk, memory = delayed.act(analytic.clock(float(now)), memory)
        assert chunk.actions.shape[1] == delayed.execute
        actions += chunk.actions.flatten().tolist()
        now += chunk.actions.shape[1]
    assert actions == pytest.approx([step / 100 for step in range(now)], abs=1e-4)


def test_a_blocking_robot_waits_and_then_does_what_was_right_before(analytic: SimpleNamespace) -> None:
    delayed = DelayedPolicy(planner(analytic, "ddim_3@4"), 2, "blocking")
    memory = delayed.start(1, 0)
    first, memory = delayed.act(analytic.clock(0.0), memory)
    assert first.actions.flatten().tolist() == pytest.approx([0.0, 0.01, 0.02, 0.03], abs=1e-6)
    second, memory = delayed.act(analytic.clock(4.0), memory)
    expected = [0.03, 0.03, 0.04, 0.05, 0.06, 0.07]
    assert second.actions.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_frozen_chunks_join_without_a_step_and_naive_ones_do_not(analytic: SimpleNamespace) -> None:
    """Inpainting cannot smooth independent data; guidance draws the join together."""
    steps = {}
    for waiting, freezing in [("naive", "inpaint"), ("frozen", "guide")]:
        acting = planner(analytic, "ddim_10@4", spread=0.2, freezing=freezing)
        delayed = DelayedPolicy(acting, 2, waiting)  # type: ignore[arg-type]
        memory = delayed.start(300, 0)
        _, memory = delayed.act(analytic.clock(0.0, 300), memory)
        assert memory.plan is not None
        old = memory.plan.chunk[:, 5:9]
        chunk, _ = delayed.act(analytic.clock(4.0, 300), memory)
        assert torch.equal(chunk.actions[:, :2], old[:, :2])
        steps[waiting] = (chunk.actions[:, 2] - old[:, 2]).std().item()
    assert steps["frozen"] < 0.7 * steps["naive"]


def test_delays_are_counted_from_none(analytic: SimpleNamespace) -> None:
    with pytest.raises(PolicyError, match="-1 control steps"):
        DelayedPolicy(planner(analytic, "ddim_3"), -1, "naive")


@pytest.mark.parametrize("waiting", ["naive", "frozen"])
def test_decisions_that_outlast_a_chunk_are_refused(analytic: SimpleNamespace, waiting: Any) -> None:
    DelayedPolicy(planner(analytic, "ddim_3"), 14, waiting)
    with pytest.raises(PolicyError, match="15 control steps outlasts a chunk, which has 15"):
        DelayedPolicy(planner(analytic, "ddim_3"), 15, waiting)


def test_a_robot_that_waits_has_no_guard(analytic: SimpleNamespace) -> None:
    guarded = planner(analytic, "rti_2_1_0_guard", guard=Guard(((1.0,),) * 16, 20.0))
    DelayedPolicy(guarded, 2, "frozen")
    with pytest.raises(PolicyError, match="for a jump"):
        DelayedPolicy(guarded, 2, "blocking")


class Slow:
    """A planner whose decisions end when the test says so."""

    def __init__(self, inner: ChunkPolicy) -> None:
        self.inner, self.observation_horizon, self.execute = inner, inner.observation_horizon, inner.execute
        self.may_end, self.begun = threading.Semaphore(1), threading.Semaphore(0)
        self.frozen: list[int] = []
        self.fail = False

    def start(self, batch: int, seed: int) -> Memory:
        return self.inner.start(batch, seed)

    def act(
        self, observation: Observation, memory: Memory, *, elapsed: int | None = None, frozen: int = 0
    ) -> Any:
        self.frozen.append(frozen)
        self.begun.release()
        assert self.may_end.acquire(timeout=10)
        if self.fail:
            raise RuntimeError("the network is gone")
        return self.inner.act(observation, memory, elapsed=elapsed, frozen=frozen)

    def actions(self, chunk: torch.Tensor) -> torch.Tensor:
        return self.inner.actions(chunk)


def wait_until_ready(executor: AsynchronousExecutor) -> None:
    assert executor._pending is not None
    executor._pending.exception(timeout=10)


@pytest.mark.parametrize("takes", [[1], [3], [1, 4, 2, 6, 1]])
def test_a_robot_gets_every_action_once_however_long_decisions_take(
    analytic: SimpleNamespace, takes: list[int]
) -> None:
    """Decisions end a given number of control steps after they were asked for."""
    slow = Slow(planner(analytic, "ddim_3@4"))
    executor = AsynchronousExecutor(slow, rate=10.0)
    executor.reset(analytic.clock(0.0), 0)
    actions, asked, decided = [], None, 0
    for now in range(60):
        if asked is not None and now - asked == takes[decided % len(takes)]:
            slow.may_end.release()
            wait_until_ready(executor)
            asked, decided = None, decided + 1
        pending = executor._pending is not None
        actions.append(executor.action(analytic.clock(float(now))).item())
        if executor._pending is not None and (asked is None or not pending):
            asked = now
    slow.may_end.release()
    executor.close()
    assert decided > 6
    assert actions == pytest.approx([step / 100 for step in range(60)], abs=1e-5)
    assert executor.starved == 0


def test_a_robot_without_a_plan_holds_its_last_action_and_says_so(analytic: SimpleNamespace) -> None:
    slow = Slow(planner(analytic, "ddim_3@4"))
    executor = AsynchronousExecutor(slow, rate=10.0)
    executor.reset(analytic.clock(0.0), 0)
    actions = [executor.action(analytic.clock(float(now))).item() for now in range(20)]
    assert actions[:15] == pytest.approx([step / 100 for step in range(15)], abs=1e-5)
    assert actions[15:] == pytest.approx([0.14] * 5, abs=1e-5)
    assert executor.starved == 5
    slow.may_end.release()
    wait_until_ready(executor)
    assert executor.action(analytic.clock(20.0)).item() == pytest.approx(
        0.18, abs=1e-5
    )  # its end: 15 from step 4
    assert executor.late == 1
    slow.may_end.release()
    executor.close()


def test_the_delay_is_a_quantile_of_what_was_measured(analytic: SimpleNamespace) -> None:
    executor = AsynchronousExecutor(planner(analytic, "ddim_3@4"), rate=10.0, quantile=0.9, window=10)
    assert executor.delay == 0
    executor.latencies.extend([0.05] * 9 + [0.35])
    assert executor.delay == 1
    executor.latencies.extend([0.35] * 2)
    assert executor.delay == 4
    executor.close()


def test_chunks_are_frozen_for_the_measured_delay(analytic: SimpleNamespace) -> None:
    ticks = iter(range(1000))
    slow = Slow(planner(analytic, "ddim_3@4"))
    slow.may_end = threading.Semaphore(1000)
    for freeze, expected in [(True, 2), (False, 0)]:
        executor = AsynchronousExecutor(slow, rate=2.0, freeze=freeze, clock=lambda: float(next(ticks)))
        executor.reset(analytic.clock(0.0), 0)
        for now in range(5):
            executor.action(analytic.clock(float(now)))
        wait_until_ready(executor)
        executor.close()
        assert slow.frozen[-1] == expected  # a decision takes a tick of 1 s, at 2 Hz


def test_a_slow_first_decision_freezes_no_more_than_the_plan_and_is_forgotten(
    analytic: SimpleNamespace,
) -> None:
    """The first takes 100 s at 1 Hz, the others next to nothing."""
    times = iter([0.0, 100.0, *(100.0 + 0.01 * tick for tick in range(1, 100))])
    slow = Slow(planner(analytic, "ddim_3@4"))
    slow.may_end = threading.Semaphore(1000)
    executor = AsynchronousExecutor(slow, rate=1.0, clock=lambda: next(times))
    executor.reset(analytic.clock(0.0), 0)
    assert executor.delay == 100
    for now in range(12):
        executor.action(analytic.clock(float(now)))
        if executor._pending is not None:
            wait_until_ready(executor)
    executor.close()
    assert slow.frozen == [
        0,
        11,
        1,
    ]  # nothing, all that is left of 15 actions after 4, and a rounded-up moment


def test_errors_of_a_decision_reach_the_robot(analytic: SimpleNamespace) -> None:
    slow = Slow(planner(analytic, "ddim_3@1"))
    executor = AsynchronousExecutor(slow, rate=10.0)
    with pytest.raises(PolicyError, match="call reset"):
        executor.action(analytic.clock(0.0))
    executor.reset(analytic.clock(0.0), 0)
    slow.fail = True
    executor.action(analytic.clock(0.0))
    executor.action(analytic.clock(1.0))
    slow.may_end.release()
    wait_until_ready(executor)
    with pytest.raises(RuntimeError, match="network is gone"):
        executor.action(analytic.clock(2.0))
    executor.close()
    with pytest.raises(PolicyError, match="call reset"):
        executor.action(analytic.clock(3.0))


def failing(analytic: SimpleNamespace) -> tuple[Slow, AsynchronousExecutor]:
    """An executor whose decision after control step 1 has failed."""
    slow = Slow(planner(analytic, "ddim_3@1"))
    slow.may_end = threading.Semaphore(1000)
    executor = AsynchronousExecutor(slow, rate=10.0)
    executor.reset(analytic.clock(0.0), 0)
    executor.action(analytic.clock(0.0))
    slow.fail = True
    executor.action(analytic.clock(1.0))
    wait_until_ready(executor)
    return slow, executor


def test_after_an_error_the_robot_may_ask_again(analytic: SimpleNamespace) -> None:
    slow, executor = failing(analytic)
    with pytest.raises(RuntimeError, match="network is gone"):
        executor.action(analytic.clock(2.0))
    slow.fail = False
    assert executor.action(analytic.clock(2.0)).item() == pytest.approx(0.02, abs=1e-5)
    wait_until_ready(executor)
    assert executor.action(analytic.clock(3.0)).item() == pytest.approx(0.03, abs=1e-5)
    executor.close()


def test_an_error_ends_with_its_roll_out(analytic: SimpleNamespace) -> None:
    slow, executor = failing(analytic)
    slow.fail = False
    executor.reset(analytic.clock(50.0), 0)
    assert executor.action(analytic.clock(50.0)).item() == pytest.approx(0.5, abs=1e-5)
    slow.fail = True
    wait_until_ready(executor) if executor._pending else None
    with pytest.raises(RuntimeError, match="network is gone"):
        executor.reset(analytic.clock(0.0), 0)
    with pytest.raises(PolicyError, match="call reset"):  # and not an action of the roll-out before
        executor.action(analytic.clock(0.0))
    executor.close()


def test_a_robot_may_write_all_it_sees_into_the_same_memory(analytic: SimpleNamespace) -> None:
    slow = Slow(planner(analytic, "ddim_3@1"))
    executor = AsynchronousExecutor(slow, rate=10.0)
    executor.reset(analytic.clock(0.0), 0)
    seen = analytic.clock(0.0)
    for now in range(2):
        seen.state[:] = analytic.clock(float(now)).state
        executor.action(seen)
    assert slow.begun.acquire(timeout=10)
    seen.state[:] = 1000.0  # while the decision is under way
    slow.may_end.release()
    wait_until_ready(executor)
    assert executor.action(seen).item() == pytest.approx(0.02, abs=1e-5)
    slow.may_end.release()
    executor.close()


def test_a_robot_gets_no_nan(analytic: SimpleNamespace) -> None:
    acting = planner(analytic, "ddim_3@4")
    acting.model.encode = lambda observation: observation.newest[:, :1, None] * torch.nan  # type: ignore[method-assign]
    executor = AsynchronousExecutor(acting, rate=10.0)
    with pytest.raises(PolicyError, match="control step 0 holds NaN or infinity; the robot does not get it"):
        executor.reset(analytic.clock(0.0), 0)
    executor.close()


def test_real_time(analytic: SimpleNamespace) -> None:
    """At 100 Hz with decisions of some milliseconds, by the machine's own clock."""
    acting = planner(analytic, "rti_2_1_0@2")
    executor = AsynchronousExecutor(acting, rate=100.0)
    executor.reset(analytic.clock(0.0), 0)
    actions = []
    for now in range(40):
        actions.append(executor.action(analytic.clock(float(now))).item())
        time.sleep(0.01)
    executor.close()
    assert actions == pytest.approx([step / 100 for step in range(40)], abs=1e-4)
    assert len(executor.latencies) > 5
    with pytest.raises(PolicyError, match="control rate"):
        AsynchronousExecutor(acting, rate=float("nan"))
    with pytest.raises(PolicyError, match="rate > 0"):
        AsynchronousExecutor(acting, rate=0.0)
