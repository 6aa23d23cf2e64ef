"""A toy task whose returns and costs follow from the actions, fake policies, and hand-made episodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

import envs
from diffpolicy.evaluation import Episode, Evaluation, judge
from diffpolicy.policies import ActionChunk, Observation


class FakePolicy:
    """Acts with a constant plus noise from its memory's generator, `horizon` steps at a time."""

    observation_horizon = 1

    def __init__(self, action: float = 0.5, horizon: int = 1, noise: float = 0.0) -> None:
        self.action, self.horizon, self.noise = action, horizon, noise
        self.asked: list[NDArray[np.float32]] = []

    def start(self, batch: int, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def act(self, observation: Observation, memory: torch.Generator) -> tuple[ActionChunk, torch.Generator]:
        self.asked.append(observation.newest.numpy().copy())
        shape = (len(observation.state), self.horizon, 2)
        noise = torch.randn(shape, generator=memory)
        return ActionChunk(torch.full(shape, self.action) + self.noise * noise), memory


class ToyVector:
    """Environments of seed % 4 + 3 steps: reward = first action, cost 1 above 0.9; reuses its buffer."""

    def __init__(self, num_envs: int, *, low: float = -1.0) -> None:
        self.num_envs = num_envs
        self.single_action_space = Box(low, 1.0, (2,), np.float32)
        self.stepped: list[NDArray[np.float32]] = []
        self.closed = False
        self._observations = np.zeros((num_envs, 3), dtype=np.float32)

    def reset(self, *, seed: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self._seeds = np.asarray(seed)
        self._left = self._seeds % 4 + 3
        self._observations[:] = np.stack([self._seeds, self._left, 0 * self._left], axis=1)
        return self._observations, {}

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.stepped.append(actions.copy())
        # Frozen environments report garbage here, on purpose: a roll-out must not count it.
        frozen = self._left == 0
        rewards = np.where(frozen, 100.0, actions[:, 0])
        costs = np.where(frozen, 100.0, actions[:, 0] > 0.9)
        self._left = np.maximum(self._left - 1, 0)
        self._observations[:, 1:] = np.stack([self._left, self._observations[:, 2] + 1], axis=1)
        over = self._left == 0
        odd = self._seeds % 2 == 1
        return self._observations, rewards, over & odd, over & ~odd, {"cost": costs}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_policy() -> type[FakePolicy]:
    return FakePolicy


@pytest.fixture
def toy_vector() -> type[ToyVector]:
    return ToyVector


@pytest.fixture
def toy_task(monkeypatch: pytest.MonkeyPatch) -> list[ToyVector]:
    """Puts the toy in place of every task's simulator; the list collects the vector environments made."""
    made: list[ToyVector] = []

    def make_vector(task: str, num_envs: int, *, workers: int | None, autoreset: bool) -> ToyVector:
        assert not autoreset
        made.append(ToyVector(num_envs))
        return made[-1]

    monkeypatch.setattr(envs, "make_vector", make_vector, raising=False)
    return made


def make_episodes(returns: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> Any:
    """Episodes (K, M) with these returns and costs; the seeds count up."""
    width = len(returns[0])
    return tuple(
        tuple(
            Episode(k * width + i, float(r), float(c), 200, False, c > 0)
            for i, (r, c) in enumerate(zip(*row, strict=True))
        )
        for k, row in enumerate(zip(returns, costs, strict=True))
    )


@pytest.fixture
def episodes() -> Callable[..., Any]:
    return make_episodes


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    """Three arms, 3 training seeds, 20 episodes each, on BallCircle; deterministic."""
    rng = np.random.default_rng(0)
    plans: Mapping[str, tuple[float, float]] = {
        "BC on safe episodes": (420.0, 4.0),
        "FISOR": (520.0, 0.05),
        "reward only": (790.0, 55.0),
    }
    played = {
        name: make_episodes(
            rng.normal(r, 40, (3, 20)).tolist(), rng.poisson(c, (3, 20)).astype(float).tolist()
        )
        for name, (r, c) in plans.items()
    }
    return judge(envs.task("BallCircle"), played, seed=0)
