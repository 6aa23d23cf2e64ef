"""Differentiable sampling is the sampler's own; what cannot be differentiated is refused."""

import pytest
import torch
from pathwise_toy import Broken, Near, Value, generator, gradient, model, prompted
from torch import Tensor

from diffpolicy.alignment.experience import Online, OnlineConfig
from diffpolicy.alignment.objectives.align_prop import AlignProp
from diffpolicy.alignment.objectives.draft_k import DRaFTK, DRaFTKConfig
from diffpolicy.alignment.objectives.draft_lv import DRaFTLV
from diffpolicy.alignment.objectives.refl import ReFL
from diffpolicy.alignment.pathwise import Pathwise, PathwiseConfig
from diffpolicy.alignment.reward import Rewards
from diffpolicy.alignment.trainer import AlignConfig, Aligner, Term
from diffpolicy.diffusion import Sampler
from diffpolicy.training.errors import FeedbackError

ALL = (DRaFTK, DRaFTLV, AlignProp, ReFL)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("without", [0, 3, 4])
def test_samples_are_those_of_the_sampler(eta: float, without: int) -> None:
    of, batch = model(), prompted()
    sampler = Sampler(of.process, "ddim", of.levels, eta=eta)
    made = Pathwise(of, Near(), PathwiseConfig(eta=eta)).arrive(
        of.roles["train"], batch, generator(), without, 4 - without
    )
    draw, steps = generator(), sampler.draws - 1
    noise = [torch.empty(8, 3, dtype=torch.float64).normal_(generator=draw) for _ in range(steps)]
    want = sampler.sample(of.roles["train"], None, torch.stack([batch.noise[0], *noise]))
    torch.testing.assert_close(made, want, rtol=0.0, atol=1e-12)
    assert made.requires_grad == (without < 4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_checkpointing_keeps_less_for_the_same_gradient(eta: float) -> None:
    of, gradients, kept = model(), [], [0, 0]
    for on in (False, True):

        def count(tensor: Tensor, on: bool = on) -> Tensor:
            kept[on] += tensor.numel()
            return tensor

        objective = DRaFTK(of, Near(), DRaFTKConfig(steps=3, eta=eta, checkpointing=on))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss, _ = objective.loss(prompted(), of.roles, generator(2))
        gradients.append(gradient(loss, of))
    assert torch.equal(*gradients)
    assert kept[True] < kept[False] / 4


def test_the_cap_is_where_reward_ends() -> None:
    of, samples = model(), torch.tensor([[2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, 2.0, 0.5]])
    samples.requires_grad_()
    part = Pathwise(of, Near(), PathwiseConfig(cap=-0.8, weight=3.0)).score(samples, [None] * 4, share=0.5)
    # The rewards are 0, -1, -4 and -.75: two are above the cap, the others .2 and 3.2 below it.
    assert part.loss.item() == pytest.approx(0.5 * 3.0 * 3.4 / 4)
    assert part.logs["capped"] == 0.5
    assert part.logs["reward"] == pytest.approx(-5.75 / 4)
    (slope,) = torch.autograd.grad(part.loss, samples)
    assert slope[[0, 3]].eq(0.0).all()
    assert slope[[1, 2]].lt(0.0).all()


@pytest.mark.parametrize("kind", ALL)
def test_a_reward_without_a_gradient_is_refused(kind: type[Pathwise]) -> None:
    with pytest.raises(ValueError, match="Value has none"):
        kind(model(), Value())


def test_a_reward_that_only_claims_a_gradient_is_found_out() -> None:
    class Claims(Near):
        def __call__(self, samples: Tensor, labels: object) -> Rewards:
            return Rewards(samples.detach().sum(1))

    of = model()
    with pytest.raises(ValueError, match="no gradient came from Claims"):
        DRaFTK(of, Claims()).loss(prompted(), of.roles, generator())


@pytest.mark.parametrize("kind", ALL)
def test_a_reward_that_is_no_number_changes_no_weight(kind: type[Pathwise]) -> None:
    of = model()
    before = of.roles.checksum("train")
    objective = kind(of, Broken())
    experience = Online(of, objective.reward, objective, OnlineConfig(groups=2, group_size=2))
    with pytest.raises(FeedbackError, match="nan"):
        Aligner(of, [Term(objective, experience)], AlignConfig(iterations=1)).update(0)
    assert of.roles.checksum("train") == before


@pytest.mark.parametrize("kind", ALL)
def test_training_raises_the_reward(kind: type[Pathwise]) -> None:
    of = model()
    objective = kind(of, Near(), kind.config.__class__(weight=1.0))
    experience = Online(of, objective.reward, objective, OnlineConfig(groups=1, group_size=32))
    aligner = Aligner(of, [Term(objective, experience)], AlignConfig(iterations=30, learning_rate=3e-2))
    rewards = [float(aligner.update(step)["reward"]) for step in range(aligner.total_steps)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 1.0


def test_the_weight_scales_the_gradient() -> None:
    of, batch = model(), prompted()
    one, three = (
        gradient(
            Pathwise(of, Near(), PathwiseConfig(weight=weight))
            .score(Pathwise(of, Near()).arrive(of.roles["train"], batch, generator(), 0, 4), batch.labels)
            .loss,
            of,
        )
        for weight in (1.0, 3.0)
    )
    torch.testing.assert_close(three, 3.0 * one, rtol=1e-6, atol=0.0)
