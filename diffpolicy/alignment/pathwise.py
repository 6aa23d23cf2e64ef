"""The kernel of objectives that follow a reward's gradient: samples whose last steps can be differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffpolicy.alignment.experience import reward_logs
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Needs, Objective, Part
from diffpolicy.alignment.reward import Reward, rate
from diffpolicy.alignment.samples import Prompted
from diffpolicy.diffusion import Denoiser, StepRule, transitions


@dataclass(frozen=True)
class PathwiseConfig:
    """What objectives that follow a reward's gradient have in common.

    Samples are rewarded up to `cap` and not beyond: their loss is `weight relu(cap - r)`; without a cap `-weight r`.
    AdamW's updates do not depend on `weight`: it counts in the cut of the gradient's norm and beside other terms.
    `eta` is that of the DDIM steps. With `checkpointing` the denoiser's and the decoder's insides are computed again
    when gradients need them, not kept: memory for time, the same gradient.
    """

    cap: float | None = None
    weight: float = 1.0
    eta: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if not (self.weight > 0.0 and 0.0 <= self.eta <= 1.0):
            raise ValueError(
                "following a reward's gradient takes a positive weight and an eta between 0 and 1, got "
                f"{self.weight} and {self.eta}"
            )


@dataclass(frozen=True)
class Pathwise(Objective[Prompted]):
    """Samples of a model by DDIM, and the loss that its reward makes of them; gradients flow where they are wanted.

    The first draw of the batch's noise is where samples start; the noise of steps, if `eta` asks for it, is drawn
    anew. All is computed in the precision of that noise.

    Raises:
        ValueError: if the reward has no gradient.
    """

    model: Model
    reward: Reward
    config: PathwiseConfig = PathwiseConfig()

    def __post_init__(self) -> None:
        if not self.reward.differentiable:
            raise ValueError(
                f"{type(self).__name__} follows the reward's gradient, and {type(self.reward).__name__} has none: "
                "take a differentiable reward, or an objective that needs only its values (NFT, say)"
            )

    @property
    def needs(self) -> Needs:
        """Prompts, the guidance of roll-outs and a reward with a gradient."""
        return Needs(prompts=True, differentiable_reward=True, guided=True)

    @property
    def steps(self) -> int:
        """How many denoising steps a sample takes."""
        return len(self.model.levels)

    def walk(
        self,
        denoiser: Denoiser,
        condition: Any,
        noisy: Tensor,
        steps: Sequence[tuple[int, int]],
        generator: torch.Generator,
    ) -> Tensor:
        """Return iterates (B, *S) after the given `steps` (from level, to level), with gradients if enabled."""
        process, rule = self.model.process, StepRule("ddim", self.config.eta)
        for level, to in steps:
            weights = rule.weights(process, level, to)
            noisy = weights.clean * self.predict(denoiser, condition, noisy, level) + weights.noisy * noisy
            if weights.std > 0.0:
                noisy = noisy + weights.std * torch.empty_like(noisy).normal_(generator=generator)
        return noisy

    def arrive(
        self, denoiser: Denoiser, batch: Prompted, generator: torch.Generator, without: int, then: int = 0
    ) -> Tensor:
        """Return iterates (B, *S) after `without` steps that carry no gradient and `then` steps that do."""
        steps = transitions(self.model.levels)
        with torch.no_grad():
            noisy = self.model.process.noise_at(self.model.levels[0]) * batch.noise[0]
            noisy = self.walk(denoiser, batch.condition, noisy, steps[:without], generator)
        return self.walk(denoiser, batch.condition, noisy, steps[without : without + then], generator)

    def predict(self, denoiser: Denoiser, condition: Any, noisy: Tensor, level: int) -> Tensor:
        """Return the clean samples (B, *S) predicted from iterates (B, *S) at a level."""
        rows = torch.full(noisy.shape[:1], level, dtype=torch.int64, device=noisy.device)

        def clean(noisy: Tensor) -> Tensor:
            return self.model.process.to_clean(denoiser(noisy, rows, condition).to(noisy.dtype), noisy, level)

        return self._computed(clean, noisy)

    def score(self, clean: Tensor, labels: Sequence[Any], share: float = 1.0) -> Part:
        """Return `share` of the loss of clean samples (B, *S), with their rewards to log.

        Raises:
            FeedbackError: if the reward is not one finite number for each.
            ValueError: if it says that it has a gradient and gives none.
        """
        rewards = rate(self.reward, self._computed(self.model.decode, clean), labels)
        if clean.requires_grad and not rewards.total.requires_grad:
            raise ValueError(
                f"no gradient came from {type(self.reward).__name__} to the samples: it, or the model's decoder, "
                "computes without one"
            )
        logs, cap = reward_logs(rewards), self.config.cap
        if cap is None:
            return Part(-share * self.config.weight * rewards.total.mean(), logs)
        logs["capped"] = (rewards.total >= cap).float().mean().item()
        return Part(share * self.config.weight * (cap - rewards.total).relu().mean(), logs)

    def _computed(self, function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        if not (self.config.checkpointing and torch.is_grad_enabled()):
            return function(value)
        result: Tensor = checkpoint(function, value, use_reentrant=False)
        return result


def check_steps(model: Model, steps: int) -> None:
    """Raise ValueError if samples of a model do not take that many steps, at least one."""
    if not 1 <= steps <= len(model.levels):
        raise ValueError(
            f"gradients flow through 1 to {len(model.levels)} of the sampler's last steps, got steps={steps}"
        )
