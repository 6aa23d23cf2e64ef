"""What a policy computes at a decision, as graphs of tensors: readings, noise and the last plan in, actions out.

Everything is inside: normalisation, all denoising steps, ranking of candidates, two-valued actions, physical units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.run_policy import COLD, WARM, Array, Run
from diffpolicy.diffusion import AncestralSampler
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.gaussian import GaussianPolicy
from diffpolicy.policies.inference import ChunkDenoiser, Inference
from diffpolicy.policies.picture_gaussian import PicturePolicy
from diffpolicy.policies.policy import Observation
from diffpolicy.policies.selection import CandidatePolicy
from diffpolicy.policies.streaming import StreamingPolicy

Deployable = CandidatePolicy | ChunkPolicy | StreamingPolicy | GaussianPolicy


@dataclass(frozen=True)
class Graph:
    """A module of named tensors; `noise` is the shape of its noise, () where it takes none.

    Inputs are the signals (1, To, ...) that the policy looks at, then "noise", then "guess" (1, Tp, A): the last plan,
    shifted. Outputs are "actions" (1, H, A) in physical units, and "plan" (1, Tp, A) or "feasible" (1,) where the
    policy has them.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    noise: tuple[int, ...]

    def run(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute it as it is, in PyTorch on one thread: small networks lose by more, and robots are busy."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode(False), torch.no_grad():
                given = [torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self.inputs]
                found: tuple[Tensor, ...] = self.module(*given)
        finally:
            torch.set_num_threads(before)
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, found, strict=True)}


@dataclass(frozen=True)
class Graphs:
    """A policy's graphs by name, "cold" and perhaps "warm", and how a `Player` goes from one decision to the next."""

    kind: str
    execute: int
    ahead: int
    guard: dict[str, Any] | None
    graphs: Mapping[str, Graph]

    def runs(self) -> dict[str, Run]:
        """The graphs as functions, in PyTorch."""
        return {name: graph.run for name, graph in self.graphs.items()}


def graphs_of(policy: Deployable, low: Sequence[float], high: Sequence[float]) -> Graphs:
    """Return the graphs of a policy on the CPU whose actions -1 and 1 mean `low` and `high` (A,) in physical units."""
    units = _Units(low, high)
    if isinstance(policy, CandidatePolicy):
        sampler = AncestralSampler(policy.actors.process)
        shape = (sampler.process.levels, 1, policy.arm.candidates, policy.actors.action_size)
        return _single(Graph(_Candidates(policy, units), ("state", "noise"), ("actions", "feasible"), shape))
    if isinstance(policy, GaussianPolicy):
        seen = policy.camera if isinstance(policy, PicturePolicy) else "state"
        noise, inputs = ((1, len(low)), (seen, "noise")) if policy.std > 0.0 else ((), (seen,))
        return _single(Graph(_Gaussian(policy, units), inputs, ("actions",), noise))
    if not isinstance(policy.model, ChunkModel):
        raise DeployError(
            f"a policy over {type(policy.model).__name__} cannot be deployed, only over a ChunkModel"
        )
    signals = ("state", *policy.model.config.cameras)
    if isinstance(policy, StreamingPolicy):
        return _streaming(policy, units, signals)
    kind = policy.arm.kind
    outputs = ("actions", "plan") if kind == "warm" else ("actions",)
    graphs = {
        COLD: Graph(
            _Chunk(policy, policy.cold, units, signals, kind == "warm"),
            (*signals, "noise"),
            outputs,
            _noise(policy.model, policy.cold.sampler.draws),
        )
    }
    if policy.warm is not None:
        graphs[WARM] = Graph(
            _Chunk(policy, policy.warm, units, signals, True),
            (*signals, "noise", "guess"),
            outputs,
            _noise(policy.model, policy.warm.sampler.draws),
        )
    guard = None if policy.guard is None else asdict(policy.guard)
    return Graphs(kind, policy.execute, policy.ahead, guard, graphs)


def _single(graph: Graph) -> Graphs:
    return Graphs("cold", 1, 1, None, {COLD: graph})


def _noise(model: ChunkDenoiser, draws: int) -> tuple[int, ...]:
    return (draws, 1, model.prediction_horizon, model.action_size)


def _streaming(policy: StreamingPolicy, units: "_Units", signals: tuple[str, ...]) -> Graphs:
    outputs = ("actions", "plan")
    graphs = {
        name: Graph(
            _Stream(policy, units, signals),
            (*signals, "noise", "guess") if name == WARM else (*signals, "noise"),
            outputs,
            _noise(policy.model, policy.draws(name == COLD)),
        )
        for name in (COLD, WARM)
    }
    return Graphs("streaming", policy.execute, policy.execute, None, graphs)


class _Units(nn.Module):
    """From actions in [-1, 1] to physical ones."""

    center: Tensor
    half_range: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        below, above = (torch.tensor(bound, dtype=torch.float64) for bound in (low, high))
        self.register_buffer("center", ((below + above) / 2).float())
        self.register_buffer("half_range", ((above - below) / 2).float())

    def forward(self, actions: Tensor) -> Tensor:
        return actions * self.half_range + self.center


class _Chunk(nn.Module):
    """A decision of a chunk policy from pure noise, or from the last plan."""

    def __init__(
        self, policy: ChunkPolicy, inference: Inference, units: _Units, signals: tuple[str, ...], keeps: bool
    ) -> None:
        super().__init__()
        assert isinstance(policy.model, nn.Module)
        self.model, self.units = policy.model, units
        self._policy, self._inference, self._signals, self._keeps = policy, inference, signals, keeps

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        observation, noise, guess = _taken(inputs, self._signals)
        if guess is not None and self._policy.discrete is not None:
            guess = self._policy.discrete.guess(guess)
        plan = self._inference(observation, noise, guess)
        actions = self.units(self._policy.actions(plan))
        return (actions, plan) if self._keeps else (actions,)


class _Stream(nn.Module):
    """A decision of a streaming policy: the first one, or with a guess any other."""

    def __init__(self, policy: StreamingPolicy, units: _Units, signals: tuple[str, ...]) -> None:
        super().__init__()
        assert isinstance(policy.model, nn.Module)
        self.model, self.units = policy.model, units
        self._policy, self._signals = policy, signals

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        buffer = self._policy.denoise(*_taken(inputs, self._signals))
        return self.units(self._policy.actions(buffer)), buffer


class _Candidates(nn.Module):
    """FISOR's decision: candidates drawn and ranked; the value is that of the chosen one."""

    def __init__(self, policy: CandidatePolicy, units: _Units) -> None:
        super().__init__()
        self.actors, self.critics, self.units = policy.actors, policy.critics, units
        self._policy = policy

    def forward(self, state: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        actions, feasible = self._policy.choose(state[:, -1], noise)
        return self.units(actions.unsqueeze(1)), feasible


class _Gaussian(nn.Module):
    """A Gaussian policy's mean action, or a sample, for states or pictures (1, 1, ...)."""

    def __init__(self, policy: GaussianPolicy, units: _Units) -> None:
        super().__init__()
        self.network, self.units, self._std = policy.network, units, policy.std

    def forward(self, seen: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        actions = self.network.mean(seen[:, -1])
        if noise is not None:
            actions = actions + self._std * noise
        return (self.units(actions.clamp(-1.0, 1.0).unsqueeze(1)),)


def _taken(inputs: tuple[Tensor, ...], signals: tuple[str, ...]) -> tuple[Observation, Tensor, Tensor | None]:
    """Return what the inputs of a graph are: an observation, noise and perhaps a guess."""
    state, *rest = inputs
    cameras, (noise, *guess) = rest[: len(signals) - 1], rest[len(signals) - 1 :]
    images = dict(zip(signals[1:], cameras, strict=True)) if cameras else None
    return Observation(state, images), noise, guess[0] if guess else None
