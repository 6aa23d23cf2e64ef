"""The digits problem: what its networks, rewards and measures are, and that matching trains them."""

import math

import pytest
import torch

from diffpolicy.alignment.digits import (
    NETWORKS,
    DigitJudge,
    DigitLikelihood,
    DigitUtility,
    digits_model,
    load_digits,
    make_network,
    pictures,
    sample_shape,
    train_base,
)
from diffpolicy.alignment.reward import rate
from diffpolicy.diffusion import Sampler

DIGITS = load_digits()
PROXY = DigitLikelihood(DIGITS)
JUDGE = DigitJudge.make(DIGITS, PROXY)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_digits_are_split_once_and_for_all() -> None:
    assert DIGITS.train.shape == (1200, 64)
    assert DIGITS.test.shape == (597, 64)
    assert DIGITS.train.min() == -1.0
    assert DIGITS.train.max() == 1.0
    assert len(DIGITS.test_class.unique()) == 10
    assert torch.equal(load_digits().test, DIGITS.test)


def test_the_proxy_is_good_on_real_digits_and_the_judge_better() -> None:
    logits = DIGITS.test @ PROXY.weight.T + PROXY.bias
    accuracy = (logits.argmax(1) == DIGITS.test_class).float().mean()
    judged = JUDGE.machine.predict(DIGITS.test.numpy()) == DIGITS.test_class.numpy()
    assert 0.9 < accuracy < judged.mean()
    three = DIGITS.test[DIGITS.test_class == 3]
    assert JUDGE.measure(pictures(three)).gold > 0.95


def test_the_proxy_is_a_log_probability_with_its_gradient() -> None:
    images = pictures(DIGITS.test[:4]).requires_grad_()
    rewards = rate(PROXY, images, [None] * 4).total
    everything = torch.stack([_of_class(images, wanted) for wanted in range(10)]).exp().sum(dim=0)
    torch.testing.assert_close(everything, torch.ones(4))
    (gradient,) = torch.autograd.grad(rewards.sum(), images)
    step = 1e-2 * gradient / gradient.norm()
    assert PROXY(images + step, ()).total.sum() > rewards.sum()


def _of_class(images: torch.Tensor, wanted: int) -> torch.Tensor:
    other = DigitLikelihood.__new__(DigitLikelihood)
    other.weight, other.bias, other.wanted = PROXY.weight, PROXY.bias, wanted
    return other(images.detach(), ()).total


def test_manifold_and_diversity_of_known_sets() -> None:
    real = pictures(DIGITS.test[:100])
    assert JUDGE.measure(real).manifold == 0.0
    same = JUDGE.measure(real[:1].expand(10, -1, -1, -1))
    assert same.diversity == pytest.approx(0.0, abs=1e-3)
    two = torch.cat([DIGITS.test[:1], DIGITS.test[:1] + 1.0])  # each element 1 away: sqrt(64)
    assert JUDGE.measure(pictures(two)).diversity == pytest.approx(8.0, abs=1e-3)


def test_the_hidden_utility_agrees_with_the_judge() -> None:
    images = pictures(DIGITS.test)
    utility = rate(DigitUtility(JUDGE), images, [None] * len(images)).total
    three = DIGITS.test_class == 3
    assert utility[three].min() > utility[~three].median()


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_are_the_generators_and_learn(kind: str) -> None:
    one, other = (make_network(kind, generator()) for _ in range(2))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    model = digits_model(kind, one)  # type: ignore[arg-type]
    assert model.shape == sample_shape(kind)  # type: ignore[arg-type]
    clean = DIGITS.train.reshape(-1, *model.shape)
    losses: list[float] = []
    train_base(one, clean, generator(1), 40, 32, report=lambda _, loss: losses.append(loss))
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    with torch.no_grad():
        noise = torch.randn(1, 3, *model.shape, generator=generator(2))
        clean = Sampler(model.process, "ddim", model.levels).sample(one, None, noise)
    assert model.decode(clean).shape == (3, 1, 8, 8)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="mlp, unet"):
        make_network("transformer", generator())  # type: ignore[arg-type]
