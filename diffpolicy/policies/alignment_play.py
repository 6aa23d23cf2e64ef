"""Episodes of a chunk policy in lockstep, every decision kept as a sample."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffpolicy.alignment import Model
from diffpolicy.diffusion import Denoiser, Path, Sampler, StepRule, sample_path
from diffpolicy.policies.acting import discrete_of
from diffpolicy.policies.alignment import chunk_model, condition, executed_mask
from diffpolicy.policies.policy import History
from diffpolicy.training.errors import FeedbackError
from envs.errors import WorkerError

Score = Literal["best_reward", "success"]


class VectorEnv(Protocol):
    """What is asked of `envs.make_vector(..., autoreset=False)`."""

    num_envs: int

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin one episode in each environment; the same seed begins the same episode."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments; finished ones stay as they are."""


class Decisions(NamedTuple):
    """T decisions of n episodes, decision by decision.

    `clean` (T, n, Tp, A) in normalised units, `condition` by name (T, n, ...), `paths` where they were recorded;
    `running` (T, n) bool is true where an episode was not over at the decision, and `score` (T, n) is the best that it
    had reached when the decision's actions were executed. `steps` counts control steps in running episodes.
    """

    clean: Tensor
    condition: dict[str, Tensor]
    paths: list[Path] | None
    running: Tensor
    score: Tensor
    steps: int


class Player:
    """Plays episodes with a denoiser of a model's roles; `executed` actions a decision, `decisions` at most an episode.

    Chunks are recorded paths of `rule`, or samples of `sampler` where there is none, whose iterates are clipped as when
    the policy acts.
    """

    def __init__(
        self, model: Model, executed: int, decisions: int, score: Score, rule: StepRule | None
    ) -> None:
        self.model, self.chunks = model, chunk_model(model.roles)
        self.executed, self.decisions, self.score, self.rule = executed, decisions, score, rule
        self.mask = executed_mask(self.chunks, executed)
        self.sampler = Sampler(model.process, "ddim", model.levels, clip=1.0)
        self._discrete = discrete_of(self.chunks)

    @torch.no_grad()
    def play(
        self, denoiser: Denoiser, vector: VectorEnv, seeds: Sequence[int], generator: torch.Generator
    ) -> Decisions:
        """Return the decisions of one episode for each of n environments and seeds.

        Raises:
            FeedbackError: if the simulator fails, or gives what is not a finite number.
        """
        try:
            return self._play(denoiser, vector, seeds, generator)
        except WorkerError as error:
            raise FeedbackError(f"the simulator failed during a roll-out: {error}") from error

    def _play(
        self, denoiser: Denoiser, vector: VectorEnv, seeds: Sequence[int], generator: torch.Generator
    ) -> Decisions:
        seen, infos = vector.reset(seed=list(seeds))
        history = History(self.chunks.observation_horizon)
        running = np.ones(len(seeds), dtype=bool)
        best, steps = np.full(len(seeds), -np.inf), 0  # rewards may all be negative
        chunks: list[Tensor] = []
        told: list[dict[str, Tensor]] = []
        paths: list[Path] = []
        alive: list[Tensor] = []
        scores: list[Tensor] = []
        device = self.model.device
        while running.any() and len(chunks) < self.decisions:
            alive.append(torch.from_numpy(running.copy()))
            _require_finite("observation", seen, running, seeds)
            observation = history.add(seen, infos.get("images"))
            told.append(condition(self.chunks, _to(observation, device)))
            chunk, path = self._decide(denoiser, told[-1], generator)
            chunks.append(chunk)
            paths += [] if path is None else [path]
            for index, action in enumerate(self._actions(chunk)):
                if index:  # the first one answers what the history has already
                    history.add(seen, infos.get("images"))
                seen, reward, terminated, truncated, infos = vector.step(action)
                _require_finite("reward", reward, running, seeds)
                steps += int(running.sum())
                reached = reward if self.score == "best_reward" else infos["success"]
                best = np.where(running, np.maximum(best, np.asarray(reached, dtype=np.float64)), best)
                running &= ~(np.asarray(terminated, dtype=bool) | np.asarray(truncated, dtype=bool))
                if not running.any():
                    break
            scores.append(torch.from_numpy(best.copy()))
        stacked = {name: torch.stack([each[name] for each in told]) for name in told[0]}
        flags, reached_by = torch.stack(alive).to(device), torch.stack(scores).float().to(device)
        return Decisions(torch.stack(chunks), stacked, paths or None, flags, reached_by, steps)

    def _decide(
        self, denoiser: Denoiser, told: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Path | None]:
        model = self.model
        shape = (len(told["tokens"]), *model.shape)
        if self.rule is None:
            noise = self.sampler.draw(shape, generator)
            return self.sampler.sample(denoiser, told, noise), None
        noise = torch.empty(1 + len(model.levels), *shape, device=model.device).normal_(generator=generator)
        path = sample_path(model.process, self.rule, model.levels, denoiser, told, noise, mask=self.mask)
        return path.clean, path

    def _actions(self, chunk: Tensor) -> list[NDArray[np.float32]]:
        """Return the actions (n, A) to execute one after the other."""
        first = self.chunks.observation_horizon - 1
        ahead = chunk[:, first : first + self.executed]
        ahead = ahead if self._discrete is None else self._discrete.execute(ahead)
        return list(self.chunks.to_actions(ahead).cpu().numpy().swapaxes(0, 1))


def _to(observation: Any, device: torch.device) -> Any:
    images = observation.images
    moved = None if images is None else {name: seen.to(device) for name, seen in images.items()}
    return observation._replace(state=observation.state.to(device), images=moved)


def _require_finite(what: str, values: Any, running: NDArray[np.bool_], seeds: Sequence[int]) -> None:
    bad = running & ~np.isfinite(np.asarray(values, dtype=np.float64)).reshape(len(seeds), -1).all(axis=-1)
    if bad.any():
        raise FeedbackError(
            f"the simulator gave a non-finite {what} in the episode with seed {seeds[int(np.argmax(bad))]}: nothing is "
            "learnt from this roll-out"
        )
