"""Distillation-DPO: a student of few steps learns its teacher's distribution, and which of two samples is better."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffpolicy.alignment.matching import Corruption, Matcher
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Needs, Objective, Owned, Part, Roles, role
from diffpolicy.alignment.reward import Reward, rate
from diffpolicy.alignment.roles import REFERENCE, CopiedRoles
from diffpolicy.alignment.samples import Prompted
from diffpolicy.diffusion import Denoiser, Sampler


@dataclass(frozen=True)
class DistillationDPOConfig:
    """`push` weighs the losers' term, `auxiliary_rate` is the learning rate of the two auxiliary denoisers.

    0 is distillation alone. Published is 1, with which the teacher's pull on winners and its push on losers cancel in
    the mean. In the long run nothing holds a student that is pushed: on points in the plane it runs away for .2 and
    for 1, after it has gone where it is rewarded. Watch a distance to real samples, and stop.
    """

    push: float = 0.2
    auxiliary_rate: float = 1e-4

    def __post_init__(self) -> None:
        if not 0.0 <= self.push <= 1.0:
            raise ValueError(f"losers are pushed off with a weight between 0 and 1, got {self.push}")
        if not self.auxiliary_rate > 0.0:
            raise ValueError(f"auxiliary denoisers learn at a positive rate, got {self.auxiliary_rate}")


@dataclass(frozen=True)
class DistillationDPO(Objective[Prompted]):
    """`L = mean g_w . x_w - push mean g_l . x_l`, `g = sg(eps_teacher(x_t) - eps_aux(x_t))` (Zhao et al. 2025).

    The student, "train", samples by the model's levels, one or a few; the teacher is "reference". Every prompt is
    answered twice from noises of its own, and the reward says which answer is x_w. Two auxiliary denoisers, of winners
    and losers, are fitted beside by `mse`. g is the gradient of the divergence between the samples' distribution and
    the teacher's (distribution matching): winners are pulled to the teacher, losers pushed off. Winner and loser of the
    surrogate share level and noise; levels are uniform.

    The published code multiplies g by `x_t - x`, in which the student's sample cancels: its gradient is zero. It starts
    the second sample from the first one's noise times 1.1, and alternates the two updates, which are one here.

    Raises:
        ValueError: if the model's roles are not copies of a whole network, of which the auxiliary ones are made.
    """

    model: Model
    reward: Reward
    config: DistillationDPOConfig = DistillationDPOConfig()
    copies: CopiedRoles = field(init=False, repr=False)
    auxiliaries: nn.ModuleList = field(init=False, repr=False)

    def __post_init__(self) -> None:
        roles = self.model.roles
        if not isinstance(roles, CopiedRoles):
            raise ValueError(
                "Distillation-DPO trains two more networks like the teacher: it takes a model whose roles are copies, "
                "not adapters"
            )
        network = roles.network(REFERENCE)
        both = nn.ModuleList(copy.deepcopy(network).requires_grad_(True) for _ in range(2))
        object.__setattr__(self, "copies", roles)
        object.__setattr__(self, "auxiliaries", both)

    @property
    def needs(self) -> Needs:
        """Prompts, each answered and rated twice, the guidance of roll-outs, and the teacher."""
        return Needs(prompts=True, reference=True, guided=True, ratings=2)

    @property
    def owned(self) -> Mapping[str, Owned]:
        """The auxiliary denoisers, of winners and of losers."""
        return {"auxiliaries": Owned(self.auxiliaries, self.config.auxiliary_rate)}

    def parts(self, batch: Prompted, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the auxiliary denoisers' errors and the student's surrogate.

        Raises:
            FeedbackError: if the reward is not one finite number for each sample.
        """
        ranked = self._ranked(role(roles, "train"), batch, generator)
        matcher = Matcher(self.model.process, tuple(range(self.model.process.levels)))
        winner, loser = (self.copies.denoiser(network) for network in self.auxiliaries)
        for name, clean, denoiser in (("winner", ranked.winner, winner), ("loser", ranked.loser, loser)):
            (matching,) = matcher.matchings(clean.detach(), batch.condition, generator)
            error = matching.error(matching.predict(denoiser)).mean()
            yield Part(error, {f"auxiliary_error/{name}": error.item()})
        (corruption,) = matcher.corruptions(ranked.winner.detach(), generator)
        teacher = role(roles, "reference")
        pull = self._difference(teacher, winner, ranked.winner, corruption, batch)
        push = self._difference(teacher, loser, ranked.loser, corruption, batch)
        logs = {
            "reward": ranked.reward,
            "pull": pull.square().mean().item(),
            "push": push.square().mean().item(),
        }
        yield Part(surrogate(pull, ranked.winner) - self.config.push * surrogate(push, ranked.loser), logs)

    def _ranked(self, student: Denoiser, batch: Prompted, generator: torch.Generator) -> "_Ranked":
        """Answer every prompt twice, with gradients, and tell the better answer from the worse."""
        sampler = Sampler(self.model.process, "ddim", self.model.levels)
        first = sampler.sample(student, batch.condition, batch.noise)
        fresh = torch.empty_like(batch.noise).normal_(generator=generator)
        second = sampler.sample(student, batch.condition, fresh)
        with torch.no_grad():
            values = [
                rate(self.reward, self.model.decode(each), batch.labels).total for each in (first, second)
            ]
        better = (values[0] >= values[1]).view(-1, *(1,) * (first.ndim - 1))
        reward = torch.stack(values).mean().item()
        return _Ranked(torch.where(better, first, second), torch.where(better, second, first), reward)

    @torch.no_grad()
    def _difference(
        self, teacher: Denoiser, auxiliary: Denoiser, clean: Tensor, corruption: Corruption, batch: Prompted
    ) -> Tensor:
        """Return by how much the noise (B, *S) that the teacher sees in corrupted samples exceeds the auxiliary's."""
        process, (level, noise) = self.model.process, corruption
        noisy = process.corrupt(clean, level, noise)
        seen = []
        for denoiser in (teacher, auxiliary):
            prediction = denoiser(noisy, level, batch.condition).to(noisy.dtype)
            seen.append(process.to_noise(process.to_clean(prediction, noisy, level), noisy, level))
        return seen[0] - seen[1]


class _Ranked(NamedTuple):
    """Samples (B, *S) with gradients, the better and the worse of every two, and the mean of their rewards."""

    winner: Tensor
    loser: Tensor
    reward: float


def surrogate(difference: Tensor, clean: Tensor) -> Tensor:
    """Return the scalar whose gradient in `clean` (B, *S) is `difference` (B, *S) over the number of elements."""
    return (difference.detach() * clean).mean()
