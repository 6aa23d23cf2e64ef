"""Rewards that need no pretrained model, and those made of others."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diffpolicy.alignment import CopiedRoles, Model, Online, OnlineConfig
from diffpolicy.alignment.objectives import NFT
from diffpolicy.alignment.reward import Reward, Rewards, rate
from diffpolicy.alignment.rewards import (
    Capped,
    ClassifierReward,
    JPEGSize,
    Pessimistic,
    RewardSet,
    as_bytes,
    prepare,
)
from diffpolicy.alignment.scalarise import Lagrangian, WeightedSum
from diffpolicy.diffusion import rectified_flow, trailing
from diffpolicy.training.errors import FeedbackError

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Scaled(Reward):
    """A multiple of the mean."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @property
    def differentiable(self) -> bool:
        return True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        mean = samples.flatten(1).mean(1)
        return Rewards(self.factor * mean, {"mean": mean.detach()})


def test_jpeg_sizes_are_those_of_files() -> None:
    rewards = rate(JPEGSize(), IMAGES, [None] * 3)
    for pixels, reward in zip(as_bytes(IMAGES), rewards.total, strict=True):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        assert reward.item() == pytest.approx(-len(file.getvalue()) / 1000.0)
    torch.testing.assert_close(JPEGSize(compressible=False)(IMAGES, []).total, -rewards.total)
    assert JPEGSize()(torch.zeros(1, 1, 32, 32), []).total > rewards.total.max()
    with pytest.raises(ValueError, match="qualities"):
        JPEGSize(quality=0)


@pytest.mark.parametrize(
    ("samples", "message"),
    [(torch.zeros(2, 7), "not for samples"), (torch.full((2, 3, 8, 8), torch.nan), "image 0 holds")],
)
def test_what_is_no_image_is_refused(samples: Tensor, message: str) -> None:
    with pytest.raises(FeedbackError, match=message):
        JPEGSize()(samples, [None, None])


@pytest.mark.parametrize("shape", [(48, 64), (300, 200), (32, 32)])
def test_images_are_prepared_as_pillow_does(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    short = min(shape)
    scaled = (round(shape[0] * 32 / short), round(shape[1] * 32 / short))
    wanted = (
        np.asarray(picture.resize((scaled[1], scaled[0]), Image.Resampling.BICUBIC)).astype(np.float32)
        / 255.0
    )
    top, left = (scaled[0] - 32) // 2, (scaled[1] - 32) // 2
    images = torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255.0
    made = prepare(images, 32, mean=(0.0,) * 3, std=(1.0,) * 3)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made, wanted[top : top + 32, left : left + 32], atol=1.01 / 255.0)


def test_a_classifier_is_paid_for_the_class_of_its_label() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
    samples = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rewards = ClassifierReward(network, {"cat": 2, "dog": 0})(samples, ["dog", "cat"])
    wanted = network(samples).log_softmax(1)
    torch.testing.assert_close(rewards.total, torch.stack([wanted[0, 0], wanted[1, 2]]))
    torch.testing.assert_close(rewards.terms["probability"], rewards.total.detach().exp())
    rewards.total.sum().backward()
    assert samples.grad is not None
    assert samples.grad.abs().sum() > 0.0
    with pytest.raises(FeedbackError, match="label 'cow'"):
        ClassifierReward(network, {"cat": 2})(samples, ["cat", "cow"])
    with pytest.raises(FeedbackError, match="classes from 0 to 2"):
        ClassifierReward(network, 3)(samples, ["", ""])


def test_a_cap_stops_value_and_gradient() -> None:
    samples = torch.tensor([[0.5], [2.0]], requires_grad=True)
    rewards = rate(Capped(Scaled(1.0), 1.0), samples, [0, 0])
    assert rewards.total.tolist() == [0.5, 1.0]
    assert rewards.terms["uncapped"].tolist() == [0.5, 2.0]
    rewards.total.sum().backward()
    assert samples.grad is not None
    assert samples.grad.flatten().tolist() == [1.0, 0.0]


def test_doubt_is_subtracted_and_agreement_has_a_gradient() -> None:
    samples = torch.tensor([[0.0], [2.0]], requires_grad=True)
    rewards = rate(Pessimistic([Scaled(1.0), Scaled(3.0)], k=0.5), samples, [0, 0])
    assert rewards.total.tolist() == [0.0, 3.0]
    assert rewards.uncertainty is not None
    assert rewards.uncertainty.tolist() == [0.0, 2.0]
    rewards.total.sum().backward()
    assert samples.grad is not None
    assert samples.grad.flatten().tolist() == [2.0, 1.5]
    with pytest.raises(ValueError, match="two rewards or more"):
        Pessimistic([Scaled(1.0)])


def test_a_set_names_its_terms_and_remembers_its_prices() -> None:
    scalariser = Lagrangian({"one": 1.0}, {"cost": 1.0}, rate=1.0)
    rewards = RewardSet({"one": Scaled(1.0), "two": Scaled(2.0)}, scalariser, cost=Scaled(3.0))
    samples = torch.tensor([[1.0], [2.0]])
    first = rate(rewards, samples, ["a", "b"])
    assert first.total.tolist() == [1.0, 2.0]
    assert set(first.terms) == {"one", "two", "one/mean", "two/mean", "cost/mean"}
    assert first.cost is not None
    assert first.cost.tolist() == [3.0, 6.0]
    again = RewardSet(
        {"one": Scaled(1.0), "two": Scaled(2.0)}, Lagrangian({"one": 1.0}, {"cost": 1.0}), Scaled(3.0)
    )
    again.load_state(rewards.state())
    assert again.scalariser.state() == {"multipliers": {"cost": 3.5}}
    assert rate(again, samples, ["a", "b"]).total.tolist() == [1.0 - 3.5 * 2.0, 2.0 - 3.5 * 5.0]
    assert rewards.differentiable
    assert not RewardSet({"j": JPEGSize()}, WeightedSum({"j": 1.0})).differentiable
    with pytest.raises(ValueError, match="remembers nothing"):
        JPEGSize().load_state({"prices": 1})


class Half(nn.Module):
    """A denoiser with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        return self.weight * noisy


def test_a_run_stores_what_a_reward_remembers() -> None:
    model = Model(rectified_flow(100), trailing(100, 5), (4,), CopiedRoles(Half()))
    objective = NFT(model.matcher())

    def online() -> Online:
        scalariser = Lagrangian({"one": 1.0}, {"cost": -1.0}, rate=1.0)
        rewards = RewardSet({"one": Scaled(1.0)}, scalariser, cost=Scaled(0.1))
        return Online(model, rewards, objective, OnlineConfig(groups=1, group_size=4))

    experience, resumed = online(), online()
    experience.gather({"train": Half(), "old": Half()}, torch.Generator().manual_seed(0))
    stored = experience.state()
    assert stored["reward"]["scalariser"]["multipliers"]["cost"] > 0.5
    resumed.load_state(stored)
    assert resumed.state() == stored
