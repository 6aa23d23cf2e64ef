"""Preconditioning against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import GaussianProcess, cosine_betas, edm, rectified_flow, variance_preserving
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.preconditioning import Preconditioner, cosine_basis, scales

PREDICTIONS = ("epsilon", "sample", "v", "flow", "edm")
PROCESSES = {
    "cosine": variance_preserving(cosine_betas(100), prediction="sample"),
    "edm": edm(30, prediction="sample"),
    "flow": rectified_flow(10, prediction="sample"),
}


def _levels(process: GaussianProcess) -> tuple[Tensor, Tensor]:
    levels = range(process.levels)
    signal = torch.tensor([process.signal_at(level) for level in levels], dtype=torch.float64)
    return signal, torch.tensor([process.noise_at(level) for level in levels], dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PROCESSES)
def test_the_target_is_the_answer_that_gives_the_clean_sample(prediction: str, name: str) -> None:
    signal, noise = _levels(PROCESSES[name])
    if prediction == "epsilon":
        signal, noise = signal[signal > 0.0], noise[signal > 0.0]
    table = scales(prediction, signal, noise, torch.tensor(0.3, dtype=torch.float64))
    clean, eps = torch.randn(2, 1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answer = table.target_clean * clean + table.target_noise * eps
    estimate = table.skip * (signal * clean + noise * eps) + table.out * answer
    torch.testing.assert_close(estimate, clean.expand_as(estimate), rtol=0.0, atol=1e-9)


def test_named_predictions_are_what_they_are_called() -> None:
    signal, noise = _levels(PROCESSES["cosine"])
    one = torch.ones(1, dtype=torch.float64)
    epsilon, sample = scales("epsilon", signal, noise, one), scales("sample", signal, noise, one)
    v, flow = scales("v", signal, noise, one), scales("flow", signal, noise, one)
    zeros, ones = torch.zeros_like(signal), torch.ones_like(signal)
    for table, of_clean, of_noise in (
        (epsilon, zeros, ones),
        (sample, ones, zeros),
        (v, -noise, signal),
        (flow, -ones, ones),
    ):
        torch.testing.assert_close(table.target_clean, of_clean, rtol=0.0, atol=1e-9)
        torch.testing.assert_close(table.target_noise, of_noise, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_edm_inputs_and_targets_of_gaussian_data_have_unit_variance(name: str) -> None:
    signal, noise = _levels(PROCESSES[name])
    for spread in (0.01, 0.3, 2.0):
        table = scales("edm", signal, noise, torch.tensor(spread, dtype=torch.float64))
        inputs = table.input.square() * ((signal * spread).square() + noise.square())
        targets = (table.target_clean * spread).square() + table.target_noise.square()
        torch.testing.assert_close(inputs, torch.ones_like(inputs))
        torch.testing.assert_close(targets, torch.ones_like(targets))


def test_edm_with_a_silent_network_is_the_posterior_mean_of_gaussian_data() -> None:
    # With F = 0 the estimate is E[z | u] = a d^2 u / (a^2 d^2 + b^2).
    process, spread = PROCESSES["cosine"], 0.2
    made = Preconditioner(process, "edm", (4, 1))
    sample = torch.randn(4000, 4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made.fit(spread * sample / sample.square().mean(dim=0).sqrt())
    for level in (0, 40, 99):
        a, b = process.signal_at(level), process.noise_at(level)
        _, skip, _ = made.acting(torch.tensor([level]))
        expected = a * spread**2 / (a**2 * spread**2 + b**2)
        torch.testing.assert_close(skip, torch.full((1, 4, 1), expected), rtol=1e-5, atol=0.0)


def test_edm_in_vp_form_is_karras_in_y() -> None:
    # Karras et al. 2022, eq. 7, for y = u / a and s = b / a.
    signal, noise = _levels(PROCESSES["cosine"])
    d, s = 0.2, noise / signal
    table = scales("edm", signal, noise, torch.tensor(d, dtype=torch.float64))
    torch.testing.assert_close(table.input * signal, 1 / (s.square() + d**2).sqrt())
    torch.testing.assert_close(table.skip * signal, d**2 / (s.square() + d**2))
    torch.testing.assert_close(table.out, s * d / (s.square() + d**2).sqrt())


def test_cosine_basis_is_orthonormal_and_orders_frequencies() -> None:
    basis = cosine_basis(16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16, dtype=torch.float64), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(basis[0], torch.full((16,), 0.25, dtype=torch.float64))
    wave = torch.cos(math.pi / 16 * 3 * (torch.arange(16, dtype=torch.float64) + 0.5))
    assert int((basis @ wave).abs().argmax()) == 3


def test_levels_per_step_choose_the_factors_of_each_step() -> None:
    made = Preconditioner(PROCESSES["cosine"], "edm", (3, 2))
    made.fit(torch.arange(1.0, 7.0).view(1, 3, 2))
    rows = torch.tensor([[5, 50, 99]])
    whole = [made.acting(rows[:, position]) for position in range(3)]
    for factor, found in enumerate(made.acting(rows)):
        expected = torch.stack([whole[position][factor][:, position] for position in range(3)], dim=1)
        torch.testing.assert_close(found, expected)
    signal, noise = made.corruption(rows)
    assert signal.shape == noise.shape == (1, 3, 1)
    assert made.corruption(rows[:, 0])[0].shape == (1, 1, 1)


def test_noise_cannot_be_predicted_where_there_is_no_signal() -> None:
    with pytest.raises(PolicyError, match="without signal"):
        Preconditioner(PROCESSES["flow"], "epsilon", (4, 1))
    with pytest.raises(PolicyError, match="prediction is"):
        Preconditioner(PROCESSES["flow"], "noise", (4, 1))
