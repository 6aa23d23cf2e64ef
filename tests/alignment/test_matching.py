"""The matching kernel: exact errors, levels from every part of the grid, coupling, masks."""

import pytest
import torch

from diffpolicy.alignment import Matcher, errors, inner_levels, stratified
from diffpolicy.diffusion import (
    PREDICTIONS,
    Prediction,
    cosine_betas,
    rectified_flow,
    trailing,
    variance_preserving,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_errors_are_those_of_the_process_own_target(prediction: Prediction) -> None:
    process = variance_preserving(cosine_betas(50), prediction)
    clean, noise = torch.randn(2, 5, 4, 3, generator=generator(), dtype=torch.float64)
    level = torch.tensor([0, 10, 20, 30, 49])
    target = process.target(clean, noise, level)
    assert (errors(process, lambda *_: target, clean, level, noise, None) == 0.0).all()
    away = errors(process, lambda *_: target + 2.0, clean, level, noise, None)
    torch.testing.assert_close(away, torch.full_like(away, 4.0))
    half = errors(process, lambda *_: target.bfloat16(), clean, level, noise, None)
    assert half.dtype == torch.float64


def test_masked_elements_are_context_and_never_scored() -> None:
    process = rectified_flow(20)
    clean, noise = torch.randn(2, 4, 6, 2, generator=generator())
    level = torch.tensor([3, 7, 12, 19])
    mask = (torch.arange(6) < 2)[None, :, None].expand(1, 6, 2)

    def elementwise(noisy: torch.Tensor, level: torch.Tensor, condition: None) -> torch.Tensor:
        return noisy.tanh()

    before = errors(process, elementwise, clean, level, noise, None, mask)
    other = torch.where(mask, clean, torch.nan)
    assert torch.equal(before, errors(process, elementwise, other, level, noise, None, mask))
    executed = errors(process, elementwise, clean[:, :2], level, noise[:, :2], None)
    torch.testing.assert_close(before, executed)


def test_stratified_levels_come_one_from_each_part() -> None:
    levels = tuple(range(11, -1, -1))
    drawn = stratified(levels, 4000, 4, generator())
    for part in range(4):
        assert set(drawn[part].tolist()) == set(levels[3 * part : 3 * part + 3])
    uneven = stratified(levels, 6000, 5, generator())
    share = uneven.flatten().bincount(minlength=12) / uneven.numel()
    assert (share - 1 / 12).abs().max() < 0.01


def test_inner_levels_leave_out_pure_noise_and_the_last_steps() -> None:
    grid = trailing(1000, 14)
    assert inner_levels(grid) == grid[1:12]
    assert inner_levels(grid, 1.0) == grid[1:]
    with pytest.raises(ValueError, match="no level"):
        inner_levels((5,))


def test_coupled_draws_are_shared_within_a_group() -> None:
    group = torch.tensor([4, 2, 4, 2, 9])
    clean = torch.zeros(5, 3)
    coupled = Matcher(rectified_flow(50), tuple(range(50)), draws=3, coupled=True)
    for level, noise in coupled.corruptions(clean, generator(), group):
        assert level[0] == level[2]
        assert torch.equal(noise[1], noise[3])
        assert not torch.equal(noise[0], noise[1])
    free = Matcher(rectified_flow(50), tuple(range(50)), draws=3)
    drawn = list(free.corruptions(clean, generator(), group))
    assert len(drawn) == 3
    assert not torch.equal(drawn[0].noise[0], drawn[0].noise[2])
    assert not torch.equal(drawn[0].noise, drawn[1].noise)


def test_a_matcher_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match="levels between 0 and 9"):
        Matcher(rectified_flow(10), (10,))
    with pytest.raises(ValueError, match="one draw or more"):
        Matcher(rectified_flow(10), (1,), draws=0)
