from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import envs

DEMONSTRATIONS = (
    Path(__file__).resolve().parents[2]
    / ".."
    / "shared"
    / "data"
    / "imitation"
    / "adroit_door"
    / "door-v0_demos.npz"
)


def started(env: Any, data: dict[str, NDArray[Any]], number: int, first: NDArray[Any]) -> NDArray[np.float32]:
    """Start `env` in the state behind the first observation (39,) of a demonstration.

    The recorded initial states have the hand at 0, but the first observations do not. They show all but the arm's
    way forward, which the place of the palm tells.
    """
    state = {key: data[f"init_{key}"][number].copy() for key in ("qpos", "qvel", "door_body_pos")}
    state["qpos"][1:28], state["qpos"][28], state["qpos"][29] = first[:27], first[28], first[27]
    palms = []
    for forward in (0.0, 0.1):
        state["qpos"][0] = forward
        palms.append(env.reset(seed=0, options={"initial_state_dict": state})[0][29:32])
    way = (palms[1] - palms[0]) / 0.1
    state["qpos"][0] = way @ (first[29:32] - palms[0]) / (way @ way)
    observation: NDArray[np.float32] = env.reset(seed=0, options={"initial_state_dict": state})[0]
    return observation


def test_human_hands_open_the_door_again(robotics: None) -> None:
    if not DEMONSTRATIONS.exists():
        pytest.skip("the human demonstrations are not here")
    with np.load(DEMONSTRATIONS) as arrays:
        data = {key: arrays[key] for key in arrays.files}
    env = envs.make("AdroitDoor")
    errors, successes = [], 0
    for number, (first, last) in enumerate(
        zip([0, *data["episode_ends"]], data["episode_ends"], strict=False)
    ):
        recorded = data["observations"][first:last]
        observation = started(env, data, number, recorded[0])
        succeeded, seen = False, [observation]
        for action in data["actions"][first:last]:
            observation, *_, info = env.step(action)
            seen.append(observation)
            succeeded |= info["success"]
        np.testing.assert_allclose(seen[:20], recorded[:20], atol=0.02)
        errors.append(np.max(seen, axis=0)[28] - recorded[:, 28].max())
        successes += succeeded
    assert np.median(np.abs(errors)) < 0.05, "of the widest opening [rad]"
    assert 6 <= successes <= 10, "7 of 25 recordings last until the door is open by 1.35 rad"
    env.close()


def test_the_kitchen_counts_completed_subtasks(robotics: None) -> None:
    env: Any = envs.make("FrankaKitchen")
    env.reset(seed=0)
    raw = env.unwrapped.raw
    rewards, successes = [], []
    # The robot cannot be told to in a test: doors and switches are set where they belong, one after the other.
    for joints, goal in (
        ([22], [-0.75]),
        ([17, 18], [-0.69, -0.05]),
        ([19], [0.37]),
        ([20, 21], [0.0, 1.45]),
    ):
        raw.robot_env.data.qpos[joints] = goal
        *_, info = (outcome := env.step(np.zeros(9, np.float32)))
        rewards.append(outcome[1])
        successes.append(info["success"])
    assert rewards == [1.0, 1.0, 1.0, 1.0]
    assert successes == [False, False, False, True]
    env.reset(seed=1)
    *_, info = env.step(np.zeros(9, np.float32))
    assert not info["success"], "the next episode begins with nothing done"


def test_actions_beyond_the_limits_count_as_the_limits(robotics: None) -> None:
    ends = []
    for action in (np.full(28, 1.0), np.full(28, 7.0)):
        env = envs.make("AdroitDoor")
        env.reset(seed=0)
        ends.append(env.step(action.astype(np.float32))[0])
    np.testing.assert_array_equal(*ends)
