"""What a chunk policy's network is told about states: normalised columns, or geometry that the layout names."""

import torch
from torch import Tensor, nn

from diffpolicy.data import MinMaxNormalizer
from diffpolicy.policies.errors import PolicyError
from envs.layout import Body, Layout

CONSTANT = 1e-6  # a feature that varies less tells nothing and is not scaled up


class ObservationFeatures(nn.Module):
    """From states (B, To, O) to tokens (B, To or 1, C), by a fixed map and an affine normalisation fitted to data.

    "plain": the columns, each to [-1, 1]. "geometric", to zero mean and unit deviation: the columns with cosine and
    sine in place of angles, the agent's offset from every body in world axes and, for bodies with an angle in the
    plane, in the body's own, and what changed since the step before (zero at the first observed step).
    """

    center: Tensor
    scale: Tensor

    def __init__(self, layout: Layout, kind: str, observation_size: int, newest_only: bool) -> None:
        super().__init__()
        highest = max(
            [*layout.agent, *layout.angles, *(c for b in layout.bodies for c in b.position)], default=-1
        )
        if highest >= observation_size:
            raise PolicyError(
                f"the layout names column {highest} of observations that have {observation_size}: "
                "does the dataset belong to the task?"
            )
        self._layout, self._kind, self._newest_only = layout, kind, newest_only
        self._linear = [column for column in range(observation_size) if column not in layout.angles]
        self.size = self._raw(torch.zeros(1, 1, observation_size)).shape[-1]
        self.register_buffer("center", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))

    def fit(self, states: Tensor) -> None:
        """Fit the normalisation to the states (N, To, O) of training windows."""
        raw = self._raw(states)
        if self._kind == "plain":
            fitted = MinMaxNormalizer.fit(raw)
            self.center, self.scale = fitted.center, fitted.half_range
            return
        rows = raw.flatten(0, -2).double()
        deviation = rows.std(dim=0)
        self.center = rows.mean(dim=0).float()
        self.scale = torch.where(deviation > CONSTANT, deviation, 1.0).float()

    def forward(self, states: Tensor) -> Tensor:
        """Return the tokens of `states`, oldest first."""
        tokens = (self._raw(states) - self.center) / self.scale
        return tokens[:, -1:] if self._newest_only else tokens

    def _raw(self, states: Tensor) -> Tensor:
        if self._kind == "plain":
            return states
        angles = states[..., list(self._layout.angles)]
        seen = torch.cat([states[..., self._linear], angles.cos(), angles.sin()], dim=-1)
        offsets = [part for body in self._layout.bodies for part in self._offsets(states, body)]
        changes = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, 1:] - seen[:, :-1]], dim=1)
        return torch.cat([seen, *offsets, changes], dim=-1)

    def _offsets(self, states: Tensor, body: Body) -> list[Tensor]:
        """Return the agent's offset from `body`, in the world's axes and in the body's."""
        agent = self._layout.agent
        if len(agent) != len(body.position):
            return []
        offset = states[..., list(agent)] - states[..., list(body.position)]
        if body.angle is None or len(agent) != 2:
            return [offset]
        cosine, sine = states[..., body.angle].cos(), states[..., body.angle].sin()
        x, y = offset.unbind(dim=-1)
        return [offset, torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)]
