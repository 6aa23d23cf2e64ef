"""Films: what is drawn on the frames, how long they are, and that other programs can read them."""

from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium.spaces import Box

import envs
from diffpolicy.evaluation import RolloutError
from diffpolicy.evaluation.video import (
    SAFE,
    VIOLATING,
    VideoError,
    animation,
    film,
    film_strip,
    overlay,
    record_video,
)

GREY = np.full((64, 80, 3), 128, dtype=np.uint8)


class ToyEnv:
    """Counts to the horizon of BallCircle; costs from step 100 on if the first action is above 0.9."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.closed = False

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self.step_count = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        cost = float(self.step_count > 100 and action[0] > 0.9)
        return np.zeros(3, np.float32), 0.5, False, self.step_count == 200, {"cost": cost}

    def render(self) -> np.ndarray:
        return np.full((65, 81, 3), self.step_count, dtype=np.uint8)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def toy_env(monkeypatch: pytest.MonkeyPatch) -> ToyEnv:
    env = ToyEnv()
    monkeypatch.setattr(envs, "make", lambda task, *, render_mode: env)
    return env


def test_the_bar_shows_time_and_every_violating_step() -> None:
    frame = overlay(GREY, [0.0, 0.0, 1.0, 0.0], horizon=8, text="cost 1")
    bar = frame[-2]
    assert bar[5].tolist() == list(SAFE)
    assert bar[25].tolist() == list(VIOLATING)
    assert bar[35].tolist() == list(SAFE)
    assert bar[60].tolist() not in (list(SAFE), list(VIOLATING))
    assert (frame[30] == 128).all()
    assert (GREY == 128).all()


def test_a_film_has_its_length_and_its_episode(toy_env: ToyEnv, fake_policy: Any, tmp_path: Path) -> None:
    path = tmp_path / "films" / "film.mp4"
    recording = record_video(fake_policy(0.95), "BallCircle", 3, path, max_seconds=2)
    assert recording.episode.episode_cost == 100.0
    assert recording.episode.episode_return == 100.0
    assert recording.episode.length == 200
    assert recording.episode.violation
    assert toy_env.closed
    assert 40 <= len(recording.frames) <= 50
    with imageio.get_reader(path) as reader:
        about = reader.get_meta_data()
        assert about["duration"] <= 2.0
        assert about["size"] == (80, 64)
        assert about["codec"] == "h264"
        assert about["pix_fmt"].startswith("yuv420p")
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]


def test_short_horizons_show_every_step(toy_env: ToyEnv, fake_policy: Any, tmp_path: Path) -> None:
    assert len(record_video(fake_policy(), "BallCircle", 0, tmp_path / "film.mp4").frames) == 201


def test_failures_are_clear(toy_env: ToyEnv, fake_policy: Any, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match=r"fisor .* at step 0"):
        record_video(fake_policy(float("nan")), "BallCircle", 0, tmp_path / "film.mp4", name="fisor")
    assert toy_env.closed
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot be written"):
        record_video(fake_policy(), "BallCircle", 0, tmp_path / "file" / "film.mp4")


def test_film_strip() -> None:
    frames = [np.full((20, 30, 3), value, dtype=np.uint8) for value in range(0, 250, 10)]
    picture = imageio.imread(film_strip(frames, count=3))
    assert picture.shape == (20, 3 * 30 + 2 * 4, 3)
    assert [int(picture[5, x, 0]) for x in (5, 40, 75)] == [0, 120, 240]
    with pytest.raises(VideoError):
        film_strip([])


def test_films_for_logs_are_short_and_small(toy_env: ToyEnv, fake_policy: Any) -> None:
    frames = film(fake_policy(), "BallCircle", 0, max_frames=21)
    assert [int(frame[0, 0, 0]) for frame in frames] == list(range(0, 201, 10))
    assert toy_env.closed
    moving = imageio.mimread(animation(frames * 2))
    assert len(moving) == 42
    assert moving[0].shape[:2] == (65, 81)
    tall = imageio.imread(animation([np.zeros((600, 300, 3), np.uint8)]))
    assert tall.shape[:2] == (128, 64)
    with pytest.raises(VideoError):
        animation([])


def test_pictures_reach_the_policy(
    toy_env: ToyEnv, fake_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.full((4, 4, 3), 7, np.uint8)
    monkeypatch.setattr(
        toy_env,
        "reset",
        lambda *, seed: (ToyEnv.reset(toy_env, seed=seed)[0], {"images": {"camera": picture}}),
    )

    class Looking(fake_policy):  # type: ignore[misc]
        def act(self, observation: Any, memory: Any) -> Any:
            if len(self.asked) == 0:
                assert observation.images["camera"].shape == (1, 1, 4, 4, 3)
            return super().act(observation, memory)

    assert film(Looking(horizon=300), "BallCircle", 0, max_frames=2)
