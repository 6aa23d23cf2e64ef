"""Warm starts: shifting, the exact contraction on Gaussian data, and actions of two values."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffpolicy.diffusion import (
    GaussianProcess,
    contraction,
    cosine_betas,
    edm,
    linear_betas,
    rectified_flow,
    variance_preserving,
)
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.inference import Inference
from diffpolicy.policies.rti import Discrete, WarmStart, residual, shift, snap

PROCESSES = {
    "cosine": variance_preserving(cosine_betas(100), prediction="sample"),
    "linear": variance_preserving(linear_betas(100), prediction="sample"),
    "edm": edm(40, prediction="sample"),
    "flow": rectified_flow(100, prediction="sample"),
}


@given(st.integers(1, 20), st.integers(0, 30), st.integers(0, 30))
def test_shifting_twice_is_shifting_once(horizon: int, first: int, second: int) -> None:
    chunk = torch.arange(2.0 * horizon).reshape(1, horizon, 2)
    assert torch.equal(shift(shift(chunk, first), second), shift(chunk, first + second))


@given(st.integers(1, 20), st.integers(0, 30))
def test_a_shifted_chunk_says_the_same_of_the_same_time(horizon: int, elapsed: int) -> None:
    chunk = torch.arange(float(horizon)).reshape(1, horizon, 1)
    expected = (torch.arange(horizon) + elapsed).clamp(max=horizon - 1)
    assert torch.equal(shift(chunk, elapsed).flatten(), expected.float())


def test_the_residual_leaves_out_what_was_only_repeated() -> None:
    guess = shift(torch.zeros(2, 4, 3), 1)
    chunk = guess.clone()
    chunk[:, -1] = 100.0
    chunk[1, 0] = 2.0
    assert residual(chunk, guess, 1).tolist() == pytest.approx([0.0, math.sqrt(4.0 / 3.0)])


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("levels", [(2, 1, 0), (5, 3, 1, 0), (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)])
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_a_warm_start_contracts_by_the_exact_product(
    analytic: SimpleNamespace, name: str, levels: tuple[int, ...], spread: float
) -> None:
    process = PROCESSES[name]
    warm = WarmStart(levels, single_index=True)
    infer = Inference(analytic.AnalyticModel(spread, process=process), warm.sampler(process, None), warm)
    noise = infer.sampler.draw((1, 16, 1), torch.Generator().manual_seed(0))
    guess, seen = torch.zeros(1, 16, 1), analytic.clock(0.0)
    error = infer(seen, noise, guess + 1.0) - infer(seen, noise, guess)
    begun = math.hypot(process.signal_at(levels[0]), process.noise_at(levels[0]))
    expected = begun * contraction(process, levels, spread).prod().item()
    assert error.flatten().tolist() == pytest.approx([expected] * 16, abs=1e-6)


def test_the_published_table_of_contractions(analytic: SimpleNamespace) -> None:
    """Starting at level 3 removes 69 % of the guess's error at spread .05, and 12 % at .2."""
    process, levels = PROCESSES["cosine"], (3, 2, 1, 0)
    warm = WarmStart(levels, single_index=True)
    for spread, kept in [(0.05, 0.315), (0.1, 0.649), (0.2, 0.882), (0.5, 0.981)]:
        infer = Inference(analytic.AnalyticModel(spread), warm.sampler(process, None), warm)
        noise = infer.sampler.draw((1, 16, 1), torch.Generator().manual_seed(0))
        error = infer(analytic.clock(0.0), noise, torch.ones(1, 16, 1)) - infer(
            analytic.clock(0.0), noise, torch.zeros(1, 16, 1)
        )
        assert error[0, 0, 0].item() == pytest.approx(kept, abs=5e-4)


def test_the_solution_is_where_a_warm_start_stays(analytic: SimpleNamespace) -> None:
    """Without spread exactly; with spread up to the signal that the published start leaves out."""
    process, seen = PROCESSES["cosine"], analytic.clock(30.0)
    for spread, drift in [(0.0, 1e-6), (0.2, 1 - process.signal_at(2))]:
        model = analytic.AnalyticModel(spread)
        warm = WarmStart((2, 1, 0), single_index=True)
        infer = Inference(model, warm.sampler(process, None), warm)
        solution = model.encode(seen)
        chunk = infer(seen, torch.zeros(infer.sampler.draws, 1, 16, 1), solution)
        assert ((chunk - solution).abs() <= drift * solution.abs() + 1e-6).all()


def test_noised_starts_have_the_marginals_of_their_level() -> None:
    process = PROCESSES["cosine"]
    noise = torch.empty(50_000, 1, 1).normal_(generator=torch.Generator().manual_seed(1))
    begun = WarmStart((60, 30, 10)).begin(process, torch.full_like(noise, 0.5), noise)
    assert begun.mean().item() == pytest.approx(0.5 * process.signal_at(60), abs=0.01)
    assert begun.std().item() == pytest.approx(process.noise_at(60), rel=0.01)


def test_a_committed_start_keeps_what_is_next_and_frees_the_far_end(analytic: SimpleNamespace) -> None:
    """Position 1 (now) is the guess's, 8 control steps ahead nothing is left of it, halfway half."""
    model = analytic.AnalyticModel(0.0)
    warm = WarmStart((20, 10, 3), commit=True)
    infer = Inference(model, warm.sampler(model.process, 1.0), warm, reach=8)
    seen = analytic.clock(0.0)
    noise = infer.sampler.draw((1, 16, 1), torch.Generator().manual_seed(0))
    solution = model.encode(seen)
    moved = (infer(seen, noise, solution + 0.5) - solution).flatten() / 0.5
    expected = [1.0, *(1 - ahead / 8 for ahead in range(8)), *[0.0] * 7]
    assert moved.tolist() == pytest.approx(expected, abs=1e-5)


class TwoModes:
    """Chunks of -1 or +1 (times `magnitude`), of which the observation says that -1 is likely."""

    process: GaussianProcess = PROCESSES["cosine"]
    observation_horizon, prediction_horizon, execution_horizon, action_size = 1, 1, 1, 1

    def __init__(self, magnitude: float) -> None:
        self.magnitude = magnitude

    def encode(self, observation: Any) -> float:
        return math.log(0.02 / 0.98)

    def __call__(self, noisy: Tensor, level: Tensor, condition: float, /) -> Tensor:
        signal, noise = self.process.signal[level][0], self.process.noise[level][0]
        likelihood = 2 * signal * self.magnitude * noisy / noise**2
        return self.magnitude * torch.tanh((likelihood + condition) / 2)

    def to_actions(self, normalised: Tensor) -> Tensor:
        return normalised


@pytest.mark.parametrize(
    ("arm", "treatment", "magnitude", "flips"),
    [
        ("rti_2_1_0", None, 1.0, False),
        ("rti_7_5_3_1_0", None, 1.0, False),
        ("rti_7_5_3_1_0", "scale", 0.1, True),
        ("rti_40_35_30_25_20_17_15_12_10_8_5_3_2_1_0", "clip", 1.0, True),
    ],
)
def test_a_gripper_flips_only_where_noise_can_carry_it(
    analytic: SimpleNamespace, arm: str, treatment: Any, magnitude: float, flips: bool
) -> None:
    warm = parse_arm(arm).warm
    assert warm is not None
    model = TwoModes(magnitude)
    infer = Inference(model, warm.sampler(model.process, 1.0), warm)
    guess = torch.full((500, 1, 1), magnitude)
    discrete = Discrete((0,), treatment or "clip", magnitude)
    generator, flipped = torch.Generator().manual_seed(0), 0
    for _ in range(10):  # decisions
        noise = infer.sampler.draw(tuple(guess.shape), generator)
        begun = guess if treatment is None else discrete.guess(guess)
        guess = infer(analytic.clock(0.0, 500), noise, begun)
        flipped = int((discrete.execute(guess) < 0).sum())
    assert flipped > 20 if flips else flipped == 0


def test_snapping_touches_only_its_columns() -> None:
    actions = torch.tensor([[[0.3, -0.02], [-0.3, 0.0]]])
    assert torch.equal(snap(actions, (1,), 1.0), torch.tensor([[[0.3, -1.0], [-0.3, 1.0]]]))
    assert torch.equal(snap(actions, (), 1.0), actions)
    assert snap(actions * math.nan, (1,), 1.0).isnan().all()  # and not an open gripper
    scaled = Discrete((1,), "scale", 0.1)
    assert torch.equal(scaled.guess(actions), actions)
    assert Discrete((1,), "clip", 0.5).guess(actions)[0, :, 1].tolist() == [-0.5, 0.5]
