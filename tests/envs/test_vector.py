import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

import envs


@contextlib.contextmanager
def vector(name: str, count: int, **options: Any) -> Iterator[Any]:
    made = envs.make_vector(name, count, **options)
    try:
        yield made
    finally:
        made.close()


def roll(made: Any, steps: int, seed: Any = 0) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    observations, _ = made.reset(seed=seed)
    seen = [observations]
    for _ in range(steps):
        actions = random.uniform(-1, 1, made.action_space.shape).astype(np.float32)
        observations, rewards, terminated, truncated, infos = made.step(actions)
        seen += [observations, rewards, terminated, truncated, infos["cost"], infos["final_observation"]]
    return seen


def test_it_is_a_gymnasium_vector_environment() -> None:
    with vector("PointRobot", 5, workers=0) as made:
        assert isinstance(made, VectorEnv)
        assert made.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        observations, rewards, terminated, truncated, cost, final = roll(made, 1)[1:]
        assert observations in made.observation_space
        assert rewards.shape == terminated.shape == truncated.shape == (5,)
        assert (cost.shape, cost.dtype) == ((5,), np.float32)
        assert (final.shape, final.dtype) == ((5, 11), np.float32)


@pytest.mark.parametrize("name", ["PointRobot", "BallRun"])
def test_results_do_not_depend_on_the_number_of_workers(name: str, bullet: None) -> None:
    with vector(name, 5, workers=0) as one, vector(name, 5, workers=2) as two:
        for here, there in zip(roll(one, 120), roll(two, 120), strict=True):
            np.testing.assert_array_equal(here, there)


def test_each_environment_is_the_single_one_with_its_seed(bullet: None) -> None:
    single = envs.make("BallRun")
    with vector("BallRun", 3, workers=2) as made:
        observations, _ = made.reset(seed=[7, 3, 7])
        np.testing.assert_array_equal(observations[1], single.reset(seed=3)[0])
        np.testing.assert_array_equal(observations[0], observations[2])
        action = np.array([1.0, 0.5], np.float32)
        for _ in range(100):
            observations, rewards, _, truncated, infos = made.step(np.tile(action, (3, 1)))
            observation, reward, *_, info = single.step(action)
            np.testing.assert_array_equal(infos["final_observation"][1], observation)
            assert rewards[1] == reward
            assert infos["cost"][1] == info["cost"]
        assert truncated.all()
        assert not np.array_equal(observations[1], observation), "the next episode has begun"
        observations, _ = made.reset(seed=5)
        np.testing.assert_array_equal(observations[2], single.reset(seed=7)[0])


def test_the_cost_of_the_last_step_is_kept(bullet: None) -> None:
    with vector("BallRun", 2, workers=1) as made:
        made.reset(seed=0)
        costs = []
        for _ in range(101):  # full speed is a violation from the first steps on, but not at rest
            *_, truncated, infos = made.step(np.tile(np.array([1.0, 0.0], np.float32), (2, 1)))
            costs.append(infos["cost"])
            if truncated.all():
                last = len(costs)
        assert last == 100
        assert costs[99].tolist() == [1.0, 1.0]
        assert costs[100].tolist() == [0.0, 0.0]


def test_without_auto_reset_a_finished_environment_rests() -> None:
    with vector("PointRobot", 2, workers=0, autoreset=False) as made:
        assert made.metadata["autoreset_mode"] is AutoresetMode.DISABLED
        made.reset(options={"state": (2.95, 0.0, 2.0, 0.0)})  # leaves the arena in the first step
        actions = np.zeros((2, 2), np.float32)
        observations, rewards, terminated, *_ = made.step(actions)
        assert terminated.all()
        assert np.all(rewards != 0)
        again, rewards, terminated, truncated, infos = made.step(actions)
        np.testing.assert_array_equal(again, observations)
        np.testing.assert_array_equal(infos["final_observation"], observations)
        assert terminated.all()
        assert not truncated.any()
        assert not rewards.any()
        assert not infos["cost"].any()
        made.reset(seed=0)
        assert not made.step(actions)[2].all()


def test_a_failure_in_a_worker_arrives_with_its_cause() -> None:
    with vector("PointRobot", 4, workers=2) as made:
        with pytest.raises(envs.WorkerError, match=r"environments 0 to 1 of PointRobot(?s:.*)Traceback"):
            made.reset(options={"state": "nonsense"})
        with pytest.raises(envs.WorkerError, match="closed"):
            made.reset()


def test_a_killed_worker_is_reported() -> None:
    with vector("PointRobot", 2, workers=2) as made:
        made.reset(seed=0)
        process = made._parts[1]._process
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(envs.WorkerError, match=r"environments 1 to 1 of PointRobot.*exit code -9"):
            made.step(np.zeros((2, 2), np.float32))


def test_a_missing_simulator_is_reported_as_such() -> None:
    with pytest.raises(envs.MissingSimulatorError, match="MetaDrive"):
        envs.make_vector("Metadrive-easymean", 2, workers=1)


@pytest.mark.parametrize("options", [{"num_envs": 0}, {"num_envs": 2, "workers": -1}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        envs.make_vector("PointRobot", **options)


def test_wrong_shapes_are_refused() -> None:
    with vector("PointRobot", 2, workers=0) as made:
        with pytest.raises(ValueError, match="3 seeds for 2"):
            made.reset(seed=[1, 2, 3])
        made.reset(seed=0)
        with pytest.raises(ValueError, match=r"\(2, 2\) is needed"):
            made.step(np.zeros((2, 3)))


def test_closing_ends_the_workers() -> None:
    made = envs.make_vector("PointRobot", 2, workers=2)
    processes = [part._process for part in made._parts]  # type: ignore[attr-defined]
    made.close()
    made.close()
    assert [process.exitcode for process in processes] == [0, 0]


PARENT = """
import envs, sys, time
if __name__ == "__main__":
    made = envs.make_vector("PointRobot", 2, workers=1)
    print(made._parts[0]._process.pid, flush=True)
    time.sleep(60)
"""


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(envs.__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    for _ in range(100):
        if _gone(worker):
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent by 10 s")


def _gone(process: int) -> bool:
    """Return whether a process has ended, even if nobody has collected its exit status yet."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_pictures_come_with_the_observations_they_belong_to(pusht: None) -> None:
    single = envs.make("PushTImage")
    with vector("PushTImage", 3, workers=2) as made:
        observations, infos = made.reset(seed=[5, 6, 7])
        observation, info = single.reset(seed=7)
        np.testing.assert_array_equal(observations[2], observation)
        assert infos["images"]["camera"].shape == (3, 96, 96, 3)
        np.testing.assert_array_equal(infos["images"]["camera"][2], info["images"]["camera"])
        action = np.array([0.3, -0.4], np.float32)
        *_, infos = made.step(np.tile(action, (3, 1)))
        *_, info = single.step(action)
        np.testing.assert_array_equal(infos["images"]["camera"][2], info["images"]["camera"])
        solved = {"state": (50.0, 50.0, 256.0, 256.0, np.pi / 4)}
        made.reset(options=solved)
        observations, _, terminated, _, infos = made.step(np.full((3, 2), -0.8, np.float32))
        assert terminated.all()
        assert infos["success"].all(), "kept when the next episode begins in the same step"
        assert not (observations == infos["final_observation"]).all(axis=1).any()
        assert not np.array_equal(infos["images"]["camera"][0], infos["images"]["camera"][1])


def test_tasks_without_success_or_pictures_report_none() -> None:
    with vector("PointRobot", 2, workers=0) as made:
        assert made.reset(seed=0)[1] == {}
        *_, infos = made.step(np.zeros((2, 2), np.float32))
        assert infos["success"].tolist() == [False, False]
        assert set(infos) == {"cost", "success", "final_observation"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_call_reaches_the_chosen_environments(workers: int, pusht: None) -> None:
    single: Any = envs.make("PushT")
    with vector("PushT", 4, workers=workers) as made:
        before, _ = made.reset(seed=0)
        answers = made.call("teleport", [3, 0], 11)
        assert len(answers) == 2
        single.reset(seed=3)
        np.testing.assert_array_equal(answers[0], single.unwrapped.teleport(11))
        still = (before[:, :2] / 256 - 1).astype(np.float32)
        after, *_ = made.step(still)
        moved = np.linalg.norm(after[:, 2:4] - before[:, 2:4], axis=1) > 50
        assert moved.tolist() == [True, False, False, True]
        assert made.call("teleport", [], 0) == []
        with pytest.raises(IndexError, match=r"rows=\[4\]"):
            made.call("teleport", [4], 0)
        with pytest.raises((envs.WorkerError, AttributeError), match="fly"):
            made.call("fly", [0])
