"""From what is seen, noise and perhaps a guess to a chunk: one pure function, which can be one compiled graph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from diffpolicy.diffusion import Denoiser, GaussianProcess, Sampler
from diffpolicy.policies.freezing import Freezing, blend, commitment_weights, freeze
from diffpolicy.policies.policy import Observation
from diffpolicy.policies.rti import WarmStart


class ChunkDenoiser(Protocol):
    """What acting asks of a trained chunk model; position p of a chunk belongs to control step t - (To-1) + p."""

    process: GaussianProcess
    observation_horizon: int
    prediction_horizon: int
    execution_horizon: int
    observation_size: int
    action_size: int

    def encode(self, observation: Observation) -> Any:
        """Return the condition of `observation`, which `__call__` understands."""
        ...

    def __call__(self, noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        """Return the clean chunk (B, Tp, A) predicted for `noisy` at `level` (B,) or (B, Tp)."""
        ...

    def to_actions(self, normalised: Tensor) -> Tensor:
        """Return actions (B, h, A) in [-1, 1] of normalised ones."""
        ...


class Committed(NamedTuple):
    """The shifted last plan (B, Tp, A), what has `elapsed` since it, and how many of its actions are `frozen`."""

    plan: Tensor
    elapsed: int
    frozen: int
    how: Freezing

    def rows(self, chosen: Tensor) -> "Committed":
        """The same of some roll-outs."""
        return self._replace(plan=self.plan[chosen])


@dataclass(frozen=True)
class Inference:
    """A sampler of a model, from pure noise or, with `warm`, from a guess.

    A committed warm start keeps to the guess, less and less, for `reach` control steps ahead.
    """

    model: ChunkDenoiser
    sampler: Sampler
    warm: WarmStart | None = None
    reach: int = 0

    def __call__(
        self,
        observation: Observation,
        noise: Tensor,
        guess: Tensor | None = None,
        committed: Committed | None = None,
    ) -> Tensor:
        """Return chunks (B, Tp, A) in normalised units from `noise` (draws, B, Tp, A), see `Sampler.draw`.

        A warm start wants `guess` (B, Tp, A); what is `committed` to is agreed with.
        """
        model, past = self.model, self.model.observation_horizon - 1
        denoiser: Denoiser = model
        start = None
        if self.warm is not None and guess is not None:
            start = self.warm.begin(model.process, guess, noise[0])
            if self.warm.commit:
                weights = commitment_weights(guess.shape[1], past, self.reach)
                denoiser = blend(denoiser, guess, weights.to(guess), self.sampler.clip)
        if committed is not None:
            denoiser = freeze(
                denoiser,
                model.process,
                committed.plan,
                past=past,
                frozen=committed.frozen,
                elapsed=committed.elapsed,
                how=committed.how,
            )
        return self.sampler.sample(denoiser, model.encode(observation), noise, start)


# states (B, To, O), noise (draws, B, Tp, A) and, for a warm start, the guess (B, Tp, A) -> chunk (B, Tp, A)
CompiledInference = Callable[[Tensor, Tensor, Tensor | None], Tensor]
