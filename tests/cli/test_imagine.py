import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import envs
from diffpolicy import data
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.imagine import Film, FilmConfig, Tracks, drawer, film_pixels, keep, track_states
from envs import point_robot
from world_models import FrameWindows, PixelConfig, StateWorldModel, Windows, WorldModelConfig
from world_models.pixel import PixelWorldModel

SHIPPED = Path(data.__file__).parents[1] / "assets" / "ball_circle.hdf5"


def moving(steps: int = 5, count: int = 2, size: int = 16) -> Film:
    """Return a film in which reality gets brighter and imagination does not."""
    real = np.zeros((steps + 1, count, size, size, 3), dtype=np.uint8)
    real += (10 * np.arange(steps + 1, dtype=np.uint8))[:, None, None, None, None]
    return Film(real, np.zeros_like(real), 10.0)


def test_a_film_has_reality_above_imagination_and_a_frame_for_each_moment():
    film = Image.open(io.BytesIO(moving().gif()))
    assert film.n_frames == 6
    assert film.size == (2 * 128 + 4, 2 * 128 + 4)
    film.seek(5)
    last = np.asarray(film.convert("RGB"))
    assert (last[:128, :128] == 50).all()
    assert (last[132:, :128] == 0).all()
    assert (last[128:132] == 255).all()


def test_a_strip_has_two_rows_for_each_roll_out_and_the_first_and_last_moment():
    strip = np.asarray(Image.open(io.BytesIO(moving(steps=20).strip())))
    assert strip.shape == (4 * 132 - 4, 8 * 132 - 4, 3)
    assert (strip[:128, :128] == 0).all()
    assert (strip[:128, -128:] == 200).all()
    assert (strip[132:260][:, -128:] == 0).all()


def test_films_are_kept_as_files_and_in_the_log(tmp_path: Path):
    keep(moving(), tmp_path, "imagined", 7, Console(quiet=True))
    assert Image.open(tmp_path / "imagined.gif").n_frames == 6
    assert Image.open(tmp_path / "imagined.png").size[1] == 4 * 132 - 4
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_pixels_begin_with_the_real_frame():
    from tests.world_models.square_world import square_world

    windows = FrameWindows(square_world(3, 6, 8), history=1, size=8)
    model = PixelWorldModel(PixelConfig(size=8, history=1), 2, torch.Generator().manual_seed(0))
    film = film_pixels(model, windows, FilmConfig(starts=2, steps=50))
    assert film.real.shape == film.imagined.shape == (6, 2, 8, 8, 3)  # no episode shows more
    assert (film.real[0] == film.imagined[0]).all()


def test_states_are_followed_from_the_same_moments():
    dataset = data.load(SHIPPED).select([0, 1])
    windows = Windows(dataset, 1)
    model = StateWorldModel(
        WorldModelConfig(hidden=(8,), head_hidden=(8,)),
        dataset.observation_size,
        dataset.action_size,
        torch.Generator().manual_seed(0),
    )
    tracks = track_states(model, windows, torch.tensor([3, 9]), 4)
    assert tracks.real.shape == tracks.imagined.shape == (5, 2, dataset.observation_size)
    assert torch.equal(tracks.real[0], tracks.imagined[0])
    assert torch.equal(tracks.real[4], dataset.observations[dataset.rows[torch.tensor([7, 13])]])
    assert len(tracks.plot().axes) == 6


def test_what_an_observation_says_all_of_is_drawn():
    draw = drawer(point_robot.TASK)
    assert draw is not None
    state = np.array([0.5, -1.0, 1.0, 2.0])
    picture = draw(point_robot.observe(state).astype(np.float64))
    np.testing.assert_array_equal(picture, point_robot.draw(state, state[None, :2], 128))
    assert drawer(envs.task("BallCircle")) is None
    observations = torch.from_numpy(point_robot.observe(np.stack([state, state]))).view(2, 1, -1)
    film = Tracks(observations, observations).film(draw, 5.0)
    assert film.real.shape == (2, 1, 128, 128, 3)


def test_push_t_is_drawn_from_its_state():
    pytest.importorskip("gym_pusht")
    draw = drawer(envs.task("PushT"))
    assert draw is not None
    one, other = (draw(np.array([x, 300.0, 256.0, 256.0, 0.7])) for x in (50.0, 450.0))
    assert one.shape == (256, 256, 3)
    assert (one != other).any()
    np.testing.assert_array_equal(one, draw(np.array([50.0, 300.0, 256.0, 256.0, 0.7])))


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"starts": -1}, {"steps": 0}, {"frames_per_second": 0.0}):
        with pytest.raises(ConfigError, match="film needs"):
            FilmConfig(**wrong)
