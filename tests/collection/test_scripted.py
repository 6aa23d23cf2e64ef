import numpy as np
import pytest

import envs
from diffpolicy.collection import CollectionError
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder, RecordedEpisode
from diffpolicy.collection.rollouts import record_rollouts
from diffpolicy.collection.scripted import Driver, random_start, scripted_behaviours
from envs.point_robot import violation_value


def drive(care: float, steps: int = 12_000) -> list[RecordedEpisode]:
    recorder = EpisodeRecorder(1, 300, 11, 2)
    env = envs.make("PointRobot")
    with Progress(steps, "test", show=False) as progress:
        record_rollouts(env, [Driver(care)], steps, recorder, progress, seed=0)
    return recorder.episodes


def violations(episodes: list[RecordedEpisode]) -> float:
    outside = [episode for episode in episodes if min(episode.observations[0, [5, 8]]) > 0.8]
    return float(np.mean([episode.episode_cost > 0 for episode in outside]))


def test_careful_drivers_violate_less_and_both_reach_the_goal() -> None:
    reckless, careful = drive(0.0), drive(1.0)
    assert violations(careful) < 0.6 * violations(reckless)
    assert np.mean([episode.rewards[-1] > 0.9 for episode in reckless]) > 0.5
    assert np.mean([episode.rewards[-1] > 0.9 for episode in careful]) > 0.4


def test_starts_lie_near_and_inside_the_hazards() -> None:
    rng = np.random.default_rng(0)
    starts = [start for start in (random_start(rng) for _ in range(500)) if start is not None]
    values = violation_value(np.array([start["state"] for start in starts]))
    assert 100 < len(starts) < 200
    assert 0.15 < np.mean(values > 0) < 0.55
    assert values.min() >= -0.61


def test_only_the_point_robot_has_scripts() -> None:
    with pytest.raises(CollectionError, match="BallCircle"):
        scripted_behaviours(envs.task("BallCircle"))
    assert len(scripted_behaviours(envs.task("PointRobot"))) == 4
