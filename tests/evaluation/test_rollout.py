"""Roll-outs on a toy task with known sums, and on the point robot."""

from typing import Any

import numpy as np
import pytest
import torch

from diffpolicy.evaluation import RolloutError, rollout
from diffpolicy.evaluation.rollout import Step, batch_size, play
from diffpolicy.policies import Observation


def test_each_episode_counts_its_own_steps_only(toy_task: Any, fake_policy: Any) -> None:
    episodes = rollout(fake_policy(0.5), "BallCircle", [3, 4, 1])
    assert [e.seed for e in episodes] == [3, 4, 1]
    assert [e.length for e in episodes] == [6, 3, 4]
    assert [e.episode_return for e in episodes] == [3.0, 1.5, 2.0]
    assert [e.terminated for e in episodes] == [True, False, True]
    assert not any(e.violation or e.episode_cost for e in episodes)
    assert toy_task[0].closed


def test_costs_and_violations(toy_task: Any, fake_policy: Any) -> None:
    episodes = rollout(fake_policy(0.95), "BallCircle", [0, 1])
    assert [e.episode_cost for e in episodes] == [3.0, 4.0]
    assert all(e.violation for e in episodes)


def test_actions_are_clipped_to_their_unit(toy_vector: Any, fake_policy: Any) -> None:
    vector = toy_vector(2)
    play(fake_policy(7.0), vector, [0, 1])
    assert vector.stepped[0].tolist() == [[1.0, 1.0]] * 2
    assert vector.stepped[-1].tolist() == [[0.0, 0.0], [1.0, 1.0]]  # finished episodes get no action


def test_a_chunk_is_played_to_its_end_before_the_next(toy_vector: Any, fake_policy: Any) -> None:
    policy = fake_policy(0.5, horizon=2)
    play(policy, toy_vector(2), [0, 2])  # 3 and 5 steps
    assert [asked[:, 2].tolist() for asked in policy.asked] == [[0, 0], [2, 2], [4, 4]]


def test_batches_are_even_and_the_last_is_padded(toy_vector: Any, fake_policy: Any) -> None:
    assert [batch_size(n) for n in (1, 20, 32, 33, 100)] == [1, 20, 32, 17, 25]
    seeds = list(range(5))
    episodes = play(fake_policy(0.5), toy_vector(3), seeds)
    assert [e.seed for e in episodes] == seeds
    assert [e.length for e in episodes] == [3, 4, 5, 6, 3]


def test_same_seeds_same_episodes(toy_task: Any, fake_policy: Any) -> None:
    noisy = fake_policy(0.0, noise=0.3)
    first, again = (rollout(noisy, "BallCircle", [1, 2, 3]) for _ in range(2))
    assert first == again
    assert first != rollout(noisy, "BallCircle", [5, 6, 7])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_actions_never_reach_the_simulator(
    toy_vector: Any, fake_policy: Any, value: float
) -> None:
    class Failing(fake_policy):  # type: ignore[misc]
        def act(self, observation: Observation, memory: Any) -> Any:
            chunk, memory = super().act(observation, memory)
            if observation.newest[0, 2] == 2:
                chunk.actions[1, 0, 1] = value
            return chunk, memory

    vector = toy_vector(2)
    with pytest.raises(RolloutError, match=r"policy fisor .* at step 2 .* seed 6"):
        play(Failing(), vector, [5, 6], name="fisor")
    assert len(vector.stepped) == 2
    assert all(np.isfinite(actions).all() for actions in vector.stepped)


def test_non_finite_actions_of_a_finished_episode_are_nobody_s_business(
    toy_vector: Any, fake_policy: Any
) -> None:
    class FailsLate(fake_policy):  # type: ignore[misc]
        def act(self, observation: Observation, memory: Any) -> Any:
            chunk, memory = super().act(observation, memory)
            chunk.actions[observation.newest[:, 1] == 0] = float("nan")
            return chunk, memory

    vector = toy_vector(2)
    assert [e.length for e in play(FailsLate(), vector, [0, 3])] == [3, 6]
    assert all(np.isfinite(actions).all() for actions in vector.stepped)


def test_simulators_that_fail_are_named(toy_vector: Any, fake_policy: Any) -> None:
    class Broken(toy_vector):  # type: ignore[misc]
        def step(self, actions: Any) -> Any:
            observations, reward, *rest = super().step(actions)
            reward[1] = np.nan
            return observations, reward, *rest

    class Silent(toy_vector):  # type: ignore[misc]
        def step(self, actions: Any) -> Any:
            return *super().step(actions)[:4], {}

    with pytest.raises(RolloutError, match="non-finite reward at step 0 of the episode with seed 9"):
        play(fake_policy(), Broken(2), [8, 9])
    with pytest.raises(RolloutError, match="cost"):
        play(fake_policy(), Silent(2), [8, 9])


def test_other_action_units_and_shapes_are_refused(toy_vector: Any, fake_policy: Any) -> None:
    with pytest.raises(RolloutError, match="RescaleAction"):
        play(fake_policy(), toy_vector(2, low=-2.0), [0, 1])
    with pytest.raises(RolloutError, match=r"shape \(2, 0, 2\)"):
        play(fake_policy(horizon=0), toy_vector(2), [0, 1])
    with pytest.raises(RolloutError, match="no seeds"):
        rollout(fake_policy(), "BallCircle", [])


def test_record_sees_every_step(toy_vector: Any, fake_policy: Any) -> None:
    steps: list[Step] = []
    episodes = play(fake_policy(0.95), toy_vector(2), [0, 2], record=steps.append)
    assert len(steps) == 5
    assert sum(int(step.running.sum()) for step in steps) == sum(e.length for e in episodes)
    assert [step.observations[1, 2] for step in steps] == [0, 1, 2, 3, 4]
    assert sum((step.costs * step.running).sum() for step in steps) == sum(e.episode_cost for e in episodes)


def test_best_reward_and_success_are_those_of_the_running_steps(toy_vector: Any, fake_policy: Any) -> None:
    class Rising(toy_vector):  # type: ignore[misc]
        """Rewards the second action, which the policy gives no other value, plus the step's number."""

        def step(self, actions: Any) -> Any:
            observations, _, *rest, infos = super().step(actions)
            infos["success"] = observations[:, 2] == 4
            return observations, -np.abs(observations[:, 2] - 2.0), *rest, infos

    short, long = play(fake_policy(), Rising(2), [0, 3])  # 3 and 6 steps
    assert (short.best_reward, long.best_reward) == (0.0, 0.0)
    assert (short.success, long.success) == (False, True)


def test_evaluations_and_cold_starts_add_up_while_an_episode_runs(toy_vector: Any, fake_policy: Any) -> None:
    class Counting(fake_policy):  # type: ignore[misc]
        def act(self, observation: Observation, memory: Any) -> Any:
            chunk, memory = super().act(observation, memory)
            first = observation.newest[:, 2] == 0
            return chunk._replace(evaluations=torch.where(first, 100, 3), cold=first), memory

    short, long = play(Counting(horizon=2), toy_vector(2), [0, 3])  # 2 and 3 decisions
    assert (short.evaluations, long.evaluations) == (103, 106)
    assert (short.cold_starts, long.cold_starts) == (1, 1)
    silent = play(fake_policy(), toy_vector(1), [0])[0]
    assert (silent.evaluations, silent.cold_starts) == (0, 0)


def test_the_last_steps_and_pictures_reach_the_policy(toy_vector: Any, fake_policy: Any) -> None:
    class Filmed(toy_vector):  # type: ignore[misc]
        def _with_images(self, infos: dict[str, Any]) -> dict[str, Any]:
            pictures = np.broadcast_to(self._observations[:, 2, None, None, None], (self.num_envs, 4, 4, 3))
            return {**infos, "images": {"camera": pictures.astype(np.uint8)}}

        def reset(self, *, seed: Any = None) -> Any:
            observations, infos = super().reset(seed=seed)
            return observations, self._with_images(infos)

        def step(self, actions: Any) -> Any:
            *rest, infos = super().step(actions)
            return *rest, self._with_images(infos)

    seen: list[tuple[list[float], list[int]]] = []

    class Looking(fake_policy):  # type: ignore[misc]
        observation_horizon = 2

        def act(self, observation: Observation, memory: Any) -> Any:
            assert observation.images is not None
            seen.append(
                (observation.state[0, :, 2].tolist(), observation.images["camera"][0, :, 0, 0, 0].tolist())
            )
            return super().act(observation, memory)

    play(Looking(horizon=2), Filmed(1), [2])  # 5 steps
    assert seen == [([0, 0], [0, 0]), ([1, 2], [1, 2]), ([3, 4], [3, 4])]


def test_an_intervention_changes_what_the_policy_sees(toy_vector: Any, fake_policy: Any) -> None:
    policy = fake_policy()

    def shift(vector: Any, step: int, observations: Any) -> Any:
        return observations + 10 if step == 1 else observations

    play(policy, toy_vector(1), [0], intervene=shift)
    assert [asked[0, 2] for asked in policy.asked] == [0, 11, 2]


def test_on_the_point_robot(fake_policy: Any) -> None:
    noisy = fake_policy(0.0, noise=0.5)
    together = rollout(noisy, "PointRobot", [11, 12, 13], workers=0)
    assert together == rollout(noisy, "PointRobot", [11, 12, 13], workers=2)
    for episode in together:
        assert 1 <= episode.length <= 300
        assert episode.terminated or episode.length == 300
        assert episode.violation == (episode.episode_cost > 0)
        assert episode.episode_cost <= episode.length


def test_an_episode_may_be_over_at_its_first_success(toy_vector: Any, fake_policy: Any) -> None:
    class Succeeds(toy_vector):  # type: ignore[misc]
        def step(self, actions: Any) -> Any:
            *outcome, infos = super().step(actions)
            infos["success"] = self._left == 1  # one step before the end of each
            return (*outcome, infos)

    to_the_end = play(fake_policy(), Succeeds(2), [1, 3])
    stopped = play(fake_policy(), Succeeds(2), [1, 3], until_success=True)
    assert [e.length for e in to_the_end] == [4, 6]
    assert [e.length for e in stopped] == [3, 5]
    assert all(e.success for e in [*to_the_end, *stopped])
