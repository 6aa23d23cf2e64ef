import math

import pytest
import torch

from world_models import FrameWindows, WorldModelError
from world_models.pixel import PixelWorldModel
from world_models.pixel_assessment import PixelAssessment, assess_pixels, drawn
from world_models.pixel_config import PixelConfig
from world_models.pixel_fidelity import PixelOpenLoop, Telling

from .square_world import square_world

SMALL = PixelConfig(size=8, history=1, predicts="change")


def test_figures_are_those_of_the_errors():
    table = torch.tensor([[0.01, 0.03]])
    found = PixelOpenLoop((4,), table, 2.0 * table, torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    assessment = PixelAssessment(found, {"success": Telling(0.5, math.nan)}, 1.5)
    (row,) = assessment.rows()
    assert (row.steps, row.error, row.told) == (4, pytest.approx(0.02), 0.5)
    assert row.gain == pytest.approx(2.0)
    assert row.median_gain == pytest.approx(2.0)
    assert row.psnr == pytest.approx(-10.0 * math.log10(0.02), abs=1e-4)
    assert row.psnr - row.persistence_psnr == pytest.approx(10.0 * math.log10(2.0), abs=1e-4)
    plain = assessment.to_json()
    assert plain["telling"]["success"] == {"recall": 0.5, "precision": None}
    assert plain["action_following"] == 1.5


def test_a_model_that_says_nothing_is_a_world_in_which_nothing_moves():
    windows = FrameWindows(square_world(4, 6, 8), history=1, size=8)
    # The network begins with an output of 0 and the sampler ends without noise: the frame is the last one.
    model = PixelWorldModel(SMALL, 2, torch.Generator().manual_seed(0))
    model.fit(windows)
    found = assess_pixels(model, windows, (1, 3, 40), starts=5)
    assert [row.steps for row in found.rows()] == [1, 3]
    assert found.following == pytest.approx(1.0)
    for row in found.rows():
        assert 0.8 < row.gain < 1.25
    with pytest.raises(WorldModelError, match="no episode shows 41"):
        assess_pixels(model, windows, (40,), starts=5)


def test_moments_are_drawn_once_and_all_can_be_followed():
    windows = FrameWindows(square_world(4, 6, 8), history=1, size=8)
    index = drawn(windows, 3, 100, seed=0)
    assert sorted(index.tolist()) == sorted(windows.followed(3).tolist())
    assert torch.equal(drawn(windows, 3, 5, seed=0), index[:5])
