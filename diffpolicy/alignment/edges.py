"""The kernel of all path objectives: recorded denoising steps, and how likely the trained denoiser makes them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from diffpolicy.alignment.objective import Logs
from diffpolicy.alignment.samples import Rollout, chunks, rows, select
from diffpolicy.diffusion import (
    Denoiser,
    GaussianProcess,
    Path,
    StepDistribution,
    StepRule,
    Tree,
    step_distribution,
    stochastic_steps,
    transitions,
)
from diffpolicy.training.errors import TrainingError

RATIO_TOLERANCE = 1e-4  # how far from 1 rounding may bring the likelihood ratio of an unchanged denoiser
CHECKED_AT_ONCE = 16  # samples in one call of the denoiser, when ratios are checked


@dataclass(frozen=True)
class Steps:
    """Which steps of a path are learnt from, and how far their likelihood ratios may go.

    Ratios are of likelihoods per element, see `StepDistribution.log_prob`, and clipped to 1 +- `clip`. With a
    `first_clip` the noisiest step is clipped there instead, and those after it by more and more, `clip` the last
    (DPPO, Ren et al. 2024): eps_i = first + (clip - first) (e^{3i/(n-1)} - 1)/(e^3 - 1).

    Steps that add no noise are always left out. So are the path's last `skip_last`, and all but its `last_steps`;
    of what remains a random `share` is taken, anew for every minibatch. The advantages of the i-th of n steps are
    multiplied by `discount^(n-1-i)`, the noisiest least (DPPO). Log-probabilities, new and old alike, are cut to
    `log_prob_range`: beyond it nothing is learnt.
    """

    clip: float = 1e-4
    first_clip: float | None = None
    share: float = 1.0
    skip_last: int = 0
    last_steps: int | None = None
    discount: float = 1.0
    log_prob_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.clip < 1.0 or not (self.first_clip is None or 0.0 < self.first_clip < 1.0):
            raise ValueError(
                f"ratios are clipped between 0 and 1, got clip={self.clip} and first_clip={self.first_clip}"
            )
        if not (0.0 < self.share <= 1.0 and 0.0 < self.discount <= 1.0):
            raise ValueError(
                "the share of steps and their discount are above 0 and at most 1, got "
                f"share={self.share} and discount={self.discount}"
            )
        if self.skip_last < 0 or (self.last_steps is not None and self.last_steps <= self.skip_last):
            raise ValueError(
                "skip_last is 0 or more and last_steps more than that, got "
                f"skip_last={self.skip_last} and last_steps={self.last_steps}"
            )
        if self.log_prob_range is not None and not self.log_prob_range[0] < self.log_prob_range[1]:
            raise ValueError(f"log_prob_range goes from low to high, got {self.log_prob_range}")

    def window(self, count: int) -> range:
        """Return the steps of a path of `count` that may be learnt from.

        Raises:
            ValueError: if there is none.
        """
        start = 0 if self.last_steps is None else max(count - self.last_steps, 0)
        if start >= count - self.skip_last:
            raise ValueError(f"skip_last={self.skip_last} leaves nothing of a path of {count} steps")
        return range(start, count - self.skip_last)

    def clip_at(self, position: int, count: int) -> float:
        """Return the clip of the step at `position` of `count`, counted from the noisiest."""
        if self.first_clip is None or count == 1:
            return self.clip
        along = math.expm1(3.0 * position / (count - 1)) / math.expm1(3.0)
        return self.first_clip + (self.clip - self.first_clip) * along


class Edges(NamedTuple):
    """All recorded steps of one depth: M of them, from N nodes; of a path each node has one, N = M = B.

    `states` (N, *S) and `children` (M, *S) lie at `level` and `next_level`; `parent` (M,) int64 is where a step comes
    from and `leaf` (M,) int64 a sample of the batch that it leads to, `origin` (N,) int64 one that a node leads to:
    theirs are condition, mask and advantage. `log_probs` (M,) are those of the denoiser that took the steps.
    """

    level: int
    next_level: int
    states: Tensor
    children: Tensor
    parent: Tensor
    leaf: Tensor
    origin: Tensor
    log_probs: Tensor


def edges(path: Path | Tree, step: int) -> Edges:
    """Return the steps number `step` of a path or a tree.

    Raises:
        ValueError: if no log-probabilities have been recorded.
    """
    if path.log_probs is None:
        raise ValueError("the path has no step with a log-probability: take a rule with eta > 0")
    level, next_level = transitions(path.levels)[step]
    states, children, log_probs = path.states[step], path.states[step + 1], path.log_probs[step]
    if isinstance(path, Path):
        each = torch.arange(len(states), device=states.device)
        return Edges(level, next_level, states, children, each, each, each, log_probs)
    lineage = path.lineage()
    leaf, origin = _a_leaf(lineage[step + 1], len(children)), _a_leaf(lineage[step], len(states))
    return Edges(level, next_level, states, children, path.parents[step], leaf, origin, log_probs)


class Taken(NamedTuple):
    """Steps of one depth under the trained denoiser: `log_probs` (M,) and `step` (M rows) have its gradient.

    `old` (M,) are the log-probabilities at roll-out, `mask` (M|1, *S) that of the samples. `number` counts depths from
    0; `weight` is the share of these steps among all that are learnt from; `clip` and `discount` are those of `Steps`.
    """

    edges: Edges
    step: StepDistribution
    log_probs: Tensor
    old: Tensor
    mask: Tensor | None
    number: int
    weight: float
    clip: float
    discount: float

    @property
    def log_ratio(self) -> Tensor:
        """The log of the likelihood ratio (M,), per element."""
        return self.log_probs - self.old

    def advantages(self, values: Tensor) -> Tensor:
        """Return the advantages (M,) of these steps, of those of samples (B,), or of every step of theirs (B, K)."""
        return self.discount * (values if values.ndim == 1 else values[:, self.number])[self.edges.leaf]


@dataclass(frozen=True)
class Likelihoods:
    """Measures the recorded steps of a roll-out, which were taken by `rule` on `process`."""

    process: GaussianProcess
    rule: StepRule
    steps: Steps = Steps()

    def taken(self, rollout: Rollout, denoiser: Denoiser, generator: torch.Generator) -> Iterator[Taken]:
        """Yield the chosen steps of a roll-out, one denoiser call each.

        Raises:
            ValueError: if there is no path, or none of its steps may be learnt from.
        """
        path = recorded(rollout)
        window = self.steps.window(len(path.levels))
        indices = self.choose(path, generator)
        total = sum(len(path.states[index + 1]) for index in indices)
        for index in indices:
            found = edges(path, index)
            step = self.distribution(rollout, found, denoiser)
            mask = (
                rollout.mask if rollout.mask is None or len(rollout.mask) == 1 else rollout.mask[found.leaf]
            )
            log_probs, old = step.log_prob(found.children, mask), found.log_probs
            if self.steps.log_prob_range is not None:
                log_probs, old = (each.clamp(*self.steps.log_prob_range) for each in (log_probs, old))
            position = index - window.start
            yield Taken(
                found,
                step,
                log_probs,
                old,
                mask,
                index,
                weight=len(found.children) / total,
                clip=self.steps.clip_at(position, len(window)),
                discount=self.steps.discount ** (len(window) - 1 - position),
            )

    def choose(self, path: Path | Tree, generator: torch.Generator) -> list[int]:
        """Return the steps to learn from, in order; a random share of them if so configured.

        Raises:
            ValueError: if there is none.
        """
        window = self.steps.window(len(path.levels))
        known = [index for index in stochastic_steps(self.process, self.rule, path.levels) if index in window]
        if not known:
            raise ValueError(
                f"none of the steps {window.start} to {window.stop - 1} of this path adds noise, so that none has a "
                "likelihood: take a rule with eta > 0"
            )
        if self.steps.share == 1.0:
            return known
        count = max(int(self.steps.share * len(known) + 1e-9), 1)
        order = torch.randperm(len(known), generator=generator, device=generator.device)[:count]
        return sorted(known[place] for place in order.tolist())

    def distribution(self, rollout: Rollout, found: Edges, denoiser: Denoiser) -> StepDistribution:
        """Return the distributions of steps (M rows) under a denoiser, which is called once for every node."""
        condition = rows(rollout.condition, found.origin)
        step = step_distribution(
            self.process, self.rule, denoiser, condition, found.states, found.level, found.next_level
        )
        return step.at(found.parent)

    @torch.no_grad()
    def constant(self, rollout: Rollout, found: Edges, denoiser: Denoiser) -> StepDistribution:
        """Return the distributions of steps (M rows) under a denoiser that is not trained."""
        return self.distribution(rollout, found, denoiser)

    @torch.no_grad()
    def check(self, rollout: Rollout, denoiser: Denoiser) -> None:
        """Check that the denoiser is the one that took the steps: that every likelihood ratio is 1.

        Raises:
            TrainingError: if one is not, within `RATIO_TOLERANCE`, or no step has a likelihood.
        """
        everything = replace(self, steps=replace(self.steps, share=1.0, log_prob_range=None))
        try:
            everything.choose(recorded(rollout), torch.Generator())
        except ValueError as error:
            raise TrainingError(str(error)) from error
        for some in chunks(len(rollout.clean), CHECKED_AT_ONCE):
            # Nothing is drawn with share 1; the generator is a formality.
            for each in everything.taken(select(rollout, some), denoiser, torch.Generator()):
                off = (each.log_ratio.exp() - 1.0).abs().max().item()
                if not off <= RATIO_TOLERANCE:
                    raise TrainingError(
                        f"before any update the likelihood ratio of step {each.number} differs from 1 by {off:.3g}, so "
                        "that the roll-out is not that of the denoiser being trained. Usual causes: another rule, "
                        "guidance or mask than in sampling, dropout, low-precision arithmetic or states, other weights"
                    )


def recorded(rollout: Rollout) -> Path | Tree:
    """Return the path of a roll-out.

    Raises:
        ValueError: if it has none.
    """
    if rollout.path is None:
        raise ValueError(
            "this objective needs the recorded denoising steps of its samples: the path is missing"
        )
    return rollout.path


def clipped_loss(taken: Taken, advantages: Tensor) -> tuple[Tensor, Logs]:
    """Return the mean of `max(-A rho, -A clip(rho, 1-eps, 1+eps))` for advantages (M,), and its logs.

    PPO's pessimistic surrogate (Schulman et al. 2017, eq. 7) with rho = p/p_old of a denoising step (DDPO, Black et
    al. 2024, section 4.3).
    """
    ratio = taken.log_ratio.exp()
    kept = ratio.clamp(1.0 - taken.clip, 1.0 + taken.clip)
    loss = torch.maximum(-advantages * ratio, -advantages * kept).mean()
    seen = ratio.detach()
    logs = {
        "policy": loss.item(),
        "ratio_deviation": (seen - 1.0).abs().mean().item(),
        "clipped": (kept.detach() != seen).to(seen).mean().item(),
        "approx_kl": (seen - 1.0 - taken.log_ratio.detach()).mean().item(),
    }
    return loss, logs


def _a_leaf(nodes: Tensor, count: int) -> Tensor:
    """Return for each of `count` nodes one of the leaves (B,) that descend from it, the first."""
    leaves = torch.arange(len(nodes), device=nodes.device)
    return torch.full((count,), len(nodes), device=nodes.device).scatter_reduce(0, nodes, leaves, "amin")
