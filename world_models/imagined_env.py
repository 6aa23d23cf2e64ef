"""A frozen world model as an environment: many episodes at once, on the model's device, from real states."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from diffpolicy.training import digest
from world_models.errors import WorldModelError
from world_models.state import Imagined
from world_models.windows import advance, blend


class WorldModel(Protocol):
    """What can be imagined in: a module with a `config.history`, of states or of pixels."""

    config: Any
    action_size: int

    @property
    def members(self) -> int:
        """How many networks there are."""

    def imagine(self, window: Any, member: Tensor, generator: torch.Generator) -> Imagined:
        """Return what member `member` (B,) int64 expects of windows of B moments."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Say whether the weights are to be trained."""

    def eval(self) -> Any:
        """Switch what is for training only off."""

    def state_dict(self) -> dict[str, Any]:
        """All weights and buffers."""


class Starts(Protocol):
    """Real moments to begin at: windows of observations (B, L, ...) and actions (B, L, A), a `NamedTuple`."""

    history: int
    actions: Tensor

    def __len__(self) -> int: ...

    def window(self, index: Tensor) -> Any:
        """Return the windows of transitions `index` (B,)."""


@dataclass(frozen=True)
class ImaginedEnvConfig:
    """Episodes end after `horizon` steps, or where the model's uncertainty is above `max_uncertainty`.

    An episode cut off by uncertainty ends in a violation: nobody knows what comes then, so it costs `unknown_cost`.
    """

    horizon: int = 20
    max_uncertainty: float | None = None
    unknown_cost: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon < 1 or not 0.0 <= self.unknown_cost < math.inf:
            raise WorldModelError(f"imagined episodes have a step or more and costs >= 0, got {self}")
        if self.max_uncertainty is not None and not self.max_uncertainty > 0.0:
            raise WorldModelError(f"max_uncertainty is positive, got {self.max_uncertainty}")


class ImaginedEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """`num_envs` imagined episodes, each in one member of the model, begun at transitions drawn from `starts`.

    All is torch, on the model's device: actions (n, A), observations (n, O) float32 or (n, S, S, 3) uint8, rewards
    (n,) float32, terminated and truncated (n,) bool. Episodes terminate at random, with the model's probability.
    Finished ones begin anew in the same step. `infos` holds "cost" and "uncertainty" (n,), "unknown" (n,) bool where
    uncertainty has cut an episode off, and "final_observation" (n, ...), the observation each step led to, whether or
    not the episode ended there.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self,
        model: WorldModel,
        starts: Starts,
        num_envs: int,
        config: ImaginedEnvConfig | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        """Make the environment; `allowed` (N,) int64 are the transitions that episodes may begin at, by default all."""
        if starts.history != model.config.history:
            raise WorldModelError(
                f"the model sees {model.config.history} observations, the windows to start from hold {starts.history}"
            )
        self.model, self.config = model, config or ImaginedEnvConfig()
        model.requires_grad_(False)
        model.eval()
        if self.config.max_uncertainty is not None and model.members < 2:
            raise WorldModelError(
                "a model of one member never disagrees with itself: leave max_uncertainty out, or train more members"
            )
        self.num_envs, self.device = num_envs, starts.actions.device
        self._starts = starts
        self._allowed = torch.arange(len(starts), device=self.device) if allowed is None else allowed
        seen = starts.window(self._allowed[:1]).observations[0, -1]
        self.single_observation_space = _box(seen, ())
        self.observation_space = _box(seen, (num_envs,))
        box = gymnasium.spaces.Box
        self.single_action_space = box(-1.0, 1.0, (model.action_size,), np.float32)
        self.action_space = box(-1.0, 1.0, (num_envs, model.action_size), np.float32)
        self._generator = torch.Generator(self.device)
        self._weights = digest(model.state_dict())
        self._ready = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Begin all episodes; with a seed (one number for all) they are the same ones every time."""
        if isinstance(seed, list):
            raise WorldModelError("imagined episodes are drawn together: give one seed, not one for each")
        if seed is not None:
            self._generator.manual_seed(seed)
        begun = self._begin()
        self._window, self._member, self._steps = begun
        self._ready = True
        return self._window.observations[:, -1], {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take actions (n, A), cut to [-1, 1].

        Raises:
            WorldModelError: if an action is not finite, or there was no reset.
        """
        if not self._ready:
            raise WorldModelError("reset the environment before the first step")
        if actions.shape != (self.num_envs, self.model.action_size) or not actions.isfinite().all():
            raise WorldModelError(
                f"actions are finite numbers {(self.num_envs, self.model.action_size)}, got {tuple(actions.shape)}"
                + (" with NaN or infinity" if not actions.isfinite().all() else "")
            )
        taken = torch.cat([self._window.actions[:, :-1], actions.clamp(-1.0, 1.0)[:, None]], dim=1)
        moment = self._window._replace(actions=taken)
        imagined = self.model.imagine(moment, self._member, self._generator)
        chance = torch.rand(self.num_envs, generator=self._generator, device=self.device)
        terminated = chance < imagined.terminations
        self._steps += 1
        unknown = torch.zeros_like(terminated)
        if self.config.max_uncertainty is not None:
            unknown = imagined.uncertainty > self.config.max_uncertainty
        cost = torch.where(unknown, imagined.costs.clamp(min=self.config.unknown_cost), imagined.costs)
        truncated = (unknown | (self._steps >= self.config.horizon)) & ~terminated
        waiting = torch.zeros_like(actions)  # the action of the coming step is not known yet
        self._window = advance(moment, imagined.observations, waiting)
        info = {
            "cost": cost,
            "uncertainty": imagined.uncertainty,
            "unknown": unknown,
            "final_observation": imagined.observations,
        }
        self._restart(terminated | truncated)
        return self._window.observations[:, -1], imagined.rewards, terminated, truncated, info

    def check_frozen(self) -> str:
        """Return the SHA-256 of the model's weights.

        Raises:
            WorldModelError: if it is not what it was when the environment was made.
        """
        now = digest(self.model.state_dict())
        if now != self._weights:
            raise WorldModelError(
                "the world model was changed while a policy was refined in it: it must be frozen"
            )
        return now

    def _begin(self) -> tuple[Any, Tensor, Tensor]:
        """Return windows of real moments, their current action left open, with a member each, at step 0."""
        shape = (self.num_envs,)
        drawn = torch.randint(len(self._allowed), shape, generator=self._generator, device=self.device)
        window = self._starts.window(self._allowed[drawn])
        member = torch.randint(self.model.members, shape, generator=self._generator, device=self.device)
        return window, member, torch.zeros(shape, dtype=torch.int64, device=self.device)

    def _restart(self, done: Tensor) -> None:
        """Begin the episodes `done` (n,) anew."""
        window, member, steps = self._begin()
        self._window = blend(done, window, self._window)
        self._member = torch.where(done, member, self._member)
        self._steps = torch.where(done, steps, self._steps)


def _box(observation: Tensor, many: tuple[int, ...]) -> gymnasium.spaces.Box:
    """Return the space of observations like this one: bytes, or numbers of any size."""
    shape = (*many, *observation.shape)
    if observation.dtype == torch.uint8:
        return gymnasium.spaces.Box(0, 255, shape, np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
