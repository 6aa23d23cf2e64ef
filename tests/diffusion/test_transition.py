"""Step distributions: marginals and variances in closed form, densities against torch.distributions, refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffpolicy.diffusion import (
    STEP_KINDS,
    GaussianProcess,
    StepDistribution,
    StepRule,
    cosine_betas,
    edm,
    element_mean,
    gaussian_denoiser,
    linear_betas,
    rectified_flow,
    stochastic_steps,
    trailing,
    variance_preserving,
)

FLOW = rectified_flow(1000)
COSINE = variance_preserving(cosine_betas(100))
LINEAR = variance_preserving(linear_betas(1000))
SPREAD = 0.3
ODE = StepRule("ddim", eta=0.0)


def end_deviation(process: GaussianProcess, rule: StepRule, steps: int) -> float:
    """Standard deviation of samples of N(0.2, SPREAD^2), exact denoiser: each step is linear, so it is propagated."""
    denoiser = gaussian_denoiser(process, 0.2, SPREAD)
    levels = trailing(process.levels, steps)
    variance = (process.signal_at(levels[0]) * SPREAD) ** 2 + process.noise_at(levels[0]) ** 2
    for level, next_level in zip(levels, (*levels[1:], -1), strict=True):
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        clean = process.to_clean(denoiser(ends, torch.full((2,), level), None), ends, level)
        weights = rule.weights(process, level, next_level)
        slope = (weights.clean * (clean[1] - clean[0]) + weights.noisy).item()
        variance = slope**2 * variance + weights.std**2
    return math.sqrt(variance)


@pytest.mark.parametrize(
    ("rule", "exact", "measured"),
    [
        (ODE, (0.2469, 0.2859, 0.2994), (0.247, 0.2855, 0.2996)),
        (StepRule("flow_sde"), (0.2820, 0.2961, 0.3003), (0.2824, 0.2967, 0.3006)),
        (StepRule("dance_sde"), (0.2615, 0.2896, 0.2996), (0.2614, 0.289, 0.2995)),
        (StepRule("cps"), (0.2132, 0.2410, 0.2543), (0.2135, 0.2405, 0.2542)),
    ],
)
def test_marginals_on_gaussian_data(
    rule: StepRule, exact: tuple[float, ...], measured: tuple[float, ...]
) -> None:
    """At 10, 40 and 1000 steps: the SDEs tend to the data's 0.3 as the ODE does, CPS to something smaller."""
    deviations = [end_deviation(FLOW, rule, steps) for steps in (10, 40, 1000)]
    assert deviations == pytest.approx(exact, abs=5e-5)
    assert deviations == pytest.approx(measured, abs=1e-3)  # Monte Carlo figures, an implementation apart


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("process", [LINEAR, edm(1000), FLOW], ids=["vp", "ve", "flow"])
def test_fine_steps_preserve_the_marginals_of_every_process(process: GaussianProcess, eta: float) -> None:
    for rule in (StepRule("ddim", eta), StepRule("flow_sde", eta), StepRule("dance_sde", eta)):
        assert end_deviation(process, rule, process.levels) == pytest.approx(SPREAD, abs=0.004)


@pytest.mark.parametrize("kind", ["flow_sde", "dance_sde"])
def test_an_sde_is_the_same_on_a_path_of_another_scale(kind: Any) -> None:
    scale = torch.linspace(0.5, 2.0, 1000, dtype=torch.float64)
    scaled = GaussianProcess(FLOW.signal.double() * scale, FLOW.noise.double() * scale, "sample")
    rule = StepRule(kind)
    for level, to in ((999, 899), (499, 399), (99, -1)):
        ours, theirs = rule.weights(scaled, level, to), rule.weights(FLOW, level, to)
        before, after = scale[level].item(), scale[to].item() if to >= 0 else 1.0
        assert ours.std == pytest.approx(after * theirs.std, rel=1e-5)
        assert ours.noisy == pytest.approx(after / before * theirs.noisy, rel=1e-5)
        assert ours.clean == pytest.approx(after * theirs.clean, rel=1e-5)


def test_flow_sde_is_its_published_step_on_the_velocity() -> None:
    x, velocity = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    for t, s in ((1.0, 0.9), (0.6, 0.5), (0.1, 0.0)):
        remaining = 1 - t if t < 1 else 1 - s
        sigma, dt = 0.7 * math.sqrt(t / remaining), s - t
        mean = x * (1 + sigma**2 / (2 * t) * dt) + velocity * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
        step = StepRule("flow_sde").step(FLOW, x - t * velocity, x, round(1000 * t) - 1, round(1000 * s) - 1)
        torch.testing.assert_close(step.mean, mean, atol=1e-5, rtol=1e-5)
        assert step.std == pytest.approx(sigma * math.sqrt(-dt), rel=1e-9)


def test_dance_sde_is_its_published_step_on_the_score() -> None:
    x, velocity = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    t, s = 0.6, 0.5
    score = -(x - (x - t * velocity) * (1 - t)) / t**2
    mean = x + (s - t) * velocity - 0.5 * 0.3**2 * score * (s - t)
    step = StepRule("dance_sde").step(FLOW, x - t * velocity, x, 599, 499)
    torch.testing.assert_close(step.mean, mean, atol=1e-6, rtol=1e-5)
    assert step.std == pytest.approx(0.3 * math.sqrt(0.1), rel=1e-9)


def test_without_eta_every_rule_is_the_ode_step() -> None:
    for kind in STEP_KINDS:
        if kind != "ancestral":
            assert StepRule(kind, eta=0.0).weights(FLOW, 599, 499) == pytest.approx(
                ODE.weights(FLOW, 599, 499)
            )


@pytest.mark.parametrize("kind", STEP_KINDS)
def test_a_clean_sample_stays_on_its_noiseless_path(kind: Any) -> None:
    """What fixes the mean of every rule: without noise, x_k = signal_k x_0 goes to signal_next x_0."""
    for level, to in ((50, 40), (10, 0), (5, -1)):
        weights = StepRule(kind).weights(COSINE, level, to)
        reached = weights.clean + weights.noisy * COSINE.signal_at(level)
        assert reached == pytest.approx(COSINE.signal_at(to), rel=1e-12)


@pytest.mark.parametrize("kind", ["ddim", "ancestral", "cps"])
def test_kept_and_new_noise_make_up_the_level(kind: Any) -> None:
    weights = StepRule(kind).weights(COSINE, 50, 40)
    total = math.hypot(weights.noisy * COSINE.noise_at(50), weights.std)
    assert total == pytest.approx(COSINE.noise_at(40), rel=1e-12)


@pytest.mark.parametrize(("t", "s", "measured"), [(0.9, 0.5, 0.0228), (0.9, 0.8, 0.3117), (0.9, 0.88, 2.447)])
def test_conditioning_on_the_next_iterate_adds_variance_to_the_target(
    t: float, s: float, measured: float
) -> None:
    """The variance theorem: Var[noisy target | x_t] = Var[clean target | x_t] + s^2 a^2/(t^2 b^2), targets scores.

    The next iterate given the clean sample is the ancestral step, so its deviation has to be s b/t.
    """
    level, next_level = round(1000 * t) - 1, round(1000 * s) - 1
    a = (1 - t) / (1 - s)
    b = math.sqrt(t**2 - (s * a) ** 2)
    least = (1 - t) ** 2 / t**4 / (1 / 0.49 + (1 - t) ** 2 / t**2)
    formula = least + (s * a / (t * b)) ** 2
    rule = StepRule("ancestral")
    assert rule.weights(FLOW, level, next_level).std == pytest.approx(s * b / t, rel=1e-9)
    assert formula == pytest.approx(measured, rel=5e-3)

    clean, noise, fresh = torch.randn(3, 200_000, 1, generator=torch.Generator().manual_seed(0))
    clean = 0.7 * clean
    noisy = FLOW.corrupt(clean, level, noise)
    following = rule.step(FLOW, clean, noisy, level, next_level).sample(fresh)
    for target, expected in ((-noise / t, least), (-(noisy - a * following) / b**2, formula)):
        assert residual_variance(target, noisy) == pytest.approx(expected, rel=0.02)


def residual_variance(target: Tensor, given: Tensor) -> float:
    """Variance of `target` given `given`, jointly normal with it: what a line leaves."""
    target, given = target.double() - target.double().mean(), given.double() - given.double().mean()
    slope = (target * given).sum() / (given * given).sum()
    return (target - slope * given).var().item()


@pytest.mark.parametrize("std", [0.4, torch.tensor([[[0.4, 0.2, 0.1]]])], ids=["number", "tensor"])
def test_log_prob_and_kl_are_those_of_torch(std: float | Tensor) -> None:
    mean, other_mean, value = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    step, other = StepDistribution(mean, std), StepDistribution(other_mean, 0.7)
    normal, other_normal = Normal(mean, torch.as_tensor(std)), Normal(other_mean, 0.7)
    torch.testing.assert_close(step.log_prob(value), normal.log_prob(value).mean(dim=(1, 2)))
    torch.testing.assert_close(step.kl(other), kl_divergence(normal, other_normal).mean(dim=(1, 2)))
    torch.testing.assert_close(step.kl(step), torch.zeros(2))
    torch.testing.assert_close(step.sample(value), mean + std * value)


def test_log_prob_is_computed_in_float32() -> None:
    mean, value = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    actual = StepDistribution(mean, 0.01).log_prob(value)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, StepDistribution(mean.float(), 0.01).log_prob(value.float()))
    assert StepRule("cps").step(FLOW, mean, mean, 600, 500).mean.dtype == torch.float32


def test_gradient_of_the_log_prob() -> None:
    mean = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = torch.zeros(2, 4, 3)
    mask = torch.tensor([True, True, False, False]).reshape(1, 4, 1)
    StepDistribution(mean, 0.4).log_prob(value, mask).sum().backward()
    expected = (value - mean.detach()) / 0.4**2 / 6 * mask
    torch.testing.assert_close(mean.grad, expected)


def test_masked_elements_change_nothing() -> None:
    """Actions that are never executed reach neither log-probabilities nor divergences, not even as NaN."""
    mean, value = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    changed = value.clone()
    changed[:, 2:] = torch.nan
    mask = torch.tensor([True, True, False, False]).reshape(1, 4, 1)
    step, executed = StepDistribution(mean, 0.4), StepDistribution(mean[:, :2], 0.4)
    assert torch.equal(step.log_prob(value, mask), step.log_prob(changed, mask))
    torch.testing.assert_close(step.log_prob(value, mask), executed.log_prob(value[:, :2]))
    assert torch.equal(
        step.kl(StepDistribution(value, 0.5), mask), step.kl(StepDistribution(changed, 0.5), mask)
    )


def test_each_sample_has_its_own_mask() -> None:
    values = torch.arange(8.0).reshape(2, 4)
    mask = torch.tensor([[True, False, False, False], [True, True, True, True]])
    assert element_mean(values, mask).tolist() == [0.0, 5.5]


def test_minimum_std_floors_the_noise_and_not_the_mean() -> None:
    plain, floored = StepRule("ddim", 1.0), StepRule("ddim", 1.0, minimum_std=0.1)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for level, to, expected in ((1, 0, 0.1), (0, -1, 0.1), (90, 60, None)):
        before, after = (rule.step(COSINE, x, x, level, to) for rule in (plain, floored))
        assert torch.equal(before.mean, after.mean)
        assert after.std == (before.std if expected is None else expected)
    assert stochastic_steps(COSINE, plain, (60, 30, 0)) == (0, 1)
    assert stochastic_steps(COSINE, floored, (60, 30, 0)) == (0, 1, 2)
    assert stochastic_steps(FLOW, StepRule("flow_sde"), (999, 499)) == (0, 1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"kind": "euler"}, "one of ddim, ancestral"),
        ({"kind": "ancestral", "eta": 0.5}, "use 'ddim'"),
        ({"kind": "ddim", "eta": 1.5}, "between 0 and 1"),
        ({"kind": "cps", "eta": -0.1}, "between 0 and 1"),
        ({"kind": "flow_sde", "eta": math.inf}, "finite diffusion"),
        ({"kind": "dance_sde", "eta": -1.0}, "finite diffusion"),
        ({"kind": "ddim", "minimum_std": -0.1}, "0 or more"),
    ],
)
def test_refuses_rules_that_are_none(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        StepRule(**options)


def test_refuses_steps_that_are_none() -> None:
    with pytest.raises(ValueError, match="to a cleaner one"):
        ODE.weights(FLOW, 10, 10)
    with pytest.raises(ValueError, match="no noise level 1000"):
        ODE.weights(FLOW, 1000, 10)
    with pytest.raises(ValueError, match=r"overshoots.* -23.* times"):
        StepRule("flow_sde").weights(FLOW, 998, 898)


def test_refuses_densities_of_deterministic_steps() -> None:
    mean = torch.zeros(2, 3)
    certain, uncertain = StepDistribution(mean, 0.0), StepDistribution(mean, 0.1)
    for call in (
        lambda: certain.log_prob(mean),
        lambda: certain.kl(uncertain),
        lambda: uncertain.kl(certain),
    ):
        with pytest.raises(ValueError, match="deterministic step has neither"):
            call()
    assert torch.equal(certain.sample(torch.ones(2, 3)), mean)


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (torch.ones(2, 3), "boolean"),
        (torch.ones(3, dtype=torch.bool), "broadcasts"),
        (torch.ones(2, 4, dtype=torch.bool), "broadcasts"),
        (torch.tensor([[True], [False]]), "without a single element"),
    ],
)
def test_refuses_masks_that_do_not_fit(mask: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        element_mean(torch.zeros(2, 3), mask)
