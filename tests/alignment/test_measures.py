"""Distances and spreads of samples have closed forms on points one can draw."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy.alignment import Matcher
from diffpolicy.alignment.measures import diversity, manifold_distance, reference_distance
from diffpolicy.alignment.pictures import GAP, SMALLEST, before_after, encode, grid
from diffpolicy.diffusion import rectified_flow
from diffpolicy.training import FeedbackError


def test_the_nearest_real_sample_is_found_in_every_chunk() -> None:
    samples = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    real = torch.tensor([[3.0, 4.0], [10.0, 2.0], [50.0, 50.0]])
    for at_once in (1, 2, 1024):
        assert manifold_distance(samples, real, at_once) == pytest.approx((5.0 + 2.0) / 2, abs=1e-6)
    assert manifold_distance(real, real) == 0.0


def test_small_distances_of_large_samples_are_exact() -> None:
    far = torch.full((1, 1, 8, 8), 1000.0)
    assert manifold_distance(far + 0.125, far.repeat(64, 1, 1, 1)) == pytest.approx(1.0, abs=1e-6)


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert diversity(square) == pytest.approx((4.0 + 2.0 * math.sqrt(2.0)) / 6.0, abs=1e-6)
    assert diversity(square, torch.tensor([0, 0, 1, 1])) == pytest.approx(1.0, abs=1e-6)
    assert diversity(square, torch.tensor([0, 1, 1, 0])) == pytest.approx(math.sqrt(2.0), abs=1e-6)


def test_prompts_that_each_have_one_answer_left_have_no_diversity() -> None:
    answers = torch.tensor([[0.0], [0.0], [9.0], [9.0]])
    assert diversity(answers, torch.tensor([0, 0, 1, 1])) == 0.0
    assert diversity(answers) > 5.0


def test_the_distance_to_the_reference_is_that_of_predictions() -> None:
    def shifted(by: float) -> Any:
        def denoiser(noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
            return 0.3 * noisy + by

        return denoiser

    matcher = Matcher(rectified_flow(100), (20, 50, 80), draws=3)
    roles = {"train": shifted(0.5), "reference": shifted(-0.25)}
    measured = reference_distance(matcher, roles, torch.randn(5, 2, 3), None, torch.Generator())
    assert measured == pytest.approx(0.75**2, abs=1e-6)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        manifold_distance(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="none of 2 has"):
        diversity(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(FeedbackError, match="no longer finite"):
        diversity(torch.tensor([[0.0], [math.nan]]))


def test_a_grid_keeps_pixels_in_place() -> None:
    images = torch.zeros(3, 1, 8, 8)
    images[0, 0, 0, 7], images[2] = 1.0, 2.0
    side, scale = SMALLEST, SMALLEST // 8
    picture = grid(images, columns=2)
    assert picture.shape == (2 * side + GAP, 2 * side + GAP, 3)
    assert (picture[:scale, side - scale : side] == 255).all()
    assert picture[:side, :side].sum() == 255 * 3 * scale**2
    assert (picture[side + GAP :, :side] == 255).all()  # beyond 1 is white
    assert (picture[:side, side + GAP :] == 0).all()


def test_before_and_after_stand_side_by_side() -> None:
    picture = before_after(torch.zeros(2, 3, 64, 32), torch.ones(2, 3, 64, 32))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, -1].tolist() == [255, 255, 255]
    assert encode(picture, "GIF")[:4] == b"GIF8"
    assert encode(picture, "PNG")[1:4] == b"PNG"
    assert grid(torch.zeros(1, 3, 512, 256)).shape == (128, 64, 3)
    with pytest.raises(ValueError, match="images"):
        grid(torch.zeros(4, 16, 2))
