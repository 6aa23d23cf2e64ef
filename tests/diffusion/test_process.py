"""Processes: marginals, round trips of every prediction on every process, accuracy, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy.diffusion import (
    PREDICTIONS,
    GaussianProcess,
    Prediction,
    cosine_betas,
    edm,
    rectified_flow,
    variance_preserving,
    vp_betas,
)

PROCESSES = {
    "fisor": variance_preserving(vp_betas(5)),
    "cosine": variance_preserving(cosine_betas(100)),
    "edm": edm(40),
    "flow": rectified_flow(20),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_corruption_has_the_marginal_of_its_level(name: str) -> None:
    process = PROCESSES[name]
    noise = torch.empty(200_000, 1).normal_(generator=torch.Generator().manual_seed(0))
    for index in (0, process.levels // 2, process.levels - 1):
        noisy = process.corrupt(torch.full_like(noise, 0.7), torch.full((200_000,), index), noise)
        expected = process.noise_at(index)
        assert noisy.mean().item() == pytest.approx(0.7 * process.signal_at(index), abs=0.01 * expected)
        assert noisy.std().item() == pytest.approx(expected, rel=0.01)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PROCESSES)), st.sampled_from(PREDICTIONS), st.data(), st.integers(0, 2**31 - 1))
def test_every_prediction_leads_back_to_sample_and_noise(
    name: str, prediction: Prediction, data: st.DataObject, seed: int
) -> None:
    process = PROCESSES[name]
    if prediction == "epsilon" and process.signal_at(process.levels - 1) == 0.0:
        prediction = "v"
    process = process.predicting(prediction)
    level = data.draw(st.integers(0, process.levels - 1))
    clean, noise = torch.randn(2, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    noisy = process.corrupt(clean, level, noise)
    restored = process.to_clean(process.target(clean, noise, level), noisy, level)
    scale = 1.0 / min(process.signal_at(level), 1.0) if prediction == "epsilon" else 1.0
    torch.testing.assert_close(restored, clean, atol=1e-13 * scale, rtol=1e-9)
    torch.testing.assert_close(process.to_noise(clean, noisy, level), noise, atol=1e-9, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_level_belongs_to_leading_dimensions(prediction: Prediction) -> None:
    process = variance_preserving(cosine_betas(10), prediction)
    clean, noise = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    per_step = torch.arange(12).reshape(3, 4) % 10
    for level in (per_step, per_step[:, 0]):
        noisy = process.corrupt(clean, level, noise)
        target = process.target(clean, noise, level)
        restored = process.to_clean(target, noisy, level)
        for row in range(3):
            for step in range(4):
                one = int(level[row, step] if level.ndim == 2 else level[row])
                here = row, step
                torch.testing.assert_close(noisy[here], process.corrupt(clean[here], one, noise[here]))
                torch.testing.assert_close(target[here], process.target(clean[here], noise[here], one))
                torch.testing.assert_close(
                    restored[here], process.to_clean(target[here], noisy[here], one), atol=1e-5, rtol=1e-3
                )


def test_level_minus_one_is_the_clean_sample() -> None:
    process = variance_preserving(cosine_betas(10))
    clean, noise = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    assert (process.signal_at(-1), process.noise_at(-1)) == (1.0, 0.0)
    assert torch.equal(process.corrupt(clean, torch.tensor([-1, -1, -1]), noise), clean)
    assert torch.equal(process.corrupt(clean, -1, noise), clean)


def test_coefficients_keep_float64_accuracy_near_level_0() -> None:
    """In float32 1 - abar of the first of a thousand levels would have lost three digits."""
    process = variance_preserving(cosine_betas(1000))
    first = cosine_betas(1000)[0].item()
    assert process.noise_at(0) == pytest.approx(math.sqrt(first), rel=1e-11)
    assert process.noise[0].item() == pytest.approx(math.sqrt(first), rel=1e-7)
    assert process.signal.dtype == process.noise.dtype == torch.float32


def test_half_precision_samples_do_not_round_the_coefficients() -> None:
    process = variance_preserving(cosine_betas(100))
    clean, noise = torch.randn(2, 50, 4, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    level = torch.full((50,), 3)
    exact = process.corrupt(clean.double(), 3, noise.double())
    torch.testing.assert_close(process.corrupt(clean, level, noise).double(), exact, atol=1e-6, rtol=1e-6)


def test_a_process_moves_and_changes_its_prediction_without_loss() -> None:
    process = variance_preserving(cosine_betas(100)).predicting("v").to("cpu")
    assert process.prediction == "v"
    assert [process.noise_at(k) for k in range(100)] == [PROCESSES["cosine"].noise_at(k) for k in range(100)]
    assert process.to("meta").device.type == process.to("meta").signal.device.type == "meta"


@pytest.mark.parametrize(
    ("signal", "noise", "prediction", "words"),
    [
        ([1.0, 0.9], [0.1], "epsilon", "equal length"),
        ([], [], "epsilon", "equal length"),
        ([1.0, float("nan")], [0.1, 0.2], "epsilon", "finite"),
        ([1.0, -0.5], [0.1, 0.2], "epsilon", "signal >= 0"),
        ([1.0, 0.9], [0.0, 0.2], "epsilon", "noise > 0"),
        ([0.5, 0.9], [0.9, 0.5], "epsilon", "least to the most"),
        ([1.0, 0.9], [0.1, 0.2], "score", "epsilon, sample, v, flow"),
        ([0.5, 0.0], [0.5, 1.0], "epsilon", "level 1 there is no signal"),
    ],
)
def test_impossible_processes_are_refused(
    signal: list[float], noise: list[float], prediction: Prediction, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        GaussianProcess(torch.tensor(signal), torch.tensor(noise), prediction)


@pytest.mark.parametrize("level", [-2, 5])
def test_unknown_levels_are_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"no noise level {level}.* 0 to 4"):
        PROCESSES["fisor"].signal_at(level)
