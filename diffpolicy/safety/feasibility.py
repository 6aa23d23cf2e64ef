"""The feasible Bellman operator: which states can still be kept safe (FISOR, Zheng et al. 2024, section 3.1)."""

import torch
from torch import Tensor


def violation_values(costs: Tensor, scale: float = 25.0) -> Tensor:
    """Return the constraint function h (N,) of 0/1 `costs` (N,): +`scale` in a violation, -1 elsewhere.

    The feasible value becomes positive up to `log(1 / (scale + 1)) / log(gamma)` steps ahead of an unavoidable
    violation: 324 steps for scale 25 and gamma 0.99.
    """
    return torch.where(costs > 0, scale, -1.0).to(torch.float32)


def feasible_target(violation: Tensor, next_value: Tensor, alive: Tensor, gamma: float) -> Tensor:
    """Apply the discounted feasible Bellman operator; all arguments broadcast, h > 0 is a violation.

    `(1 - gamma) h + gamma max(h, V_h(s'))` while the episode goes on, h at its end (`alive` = 0). A gamma-contraction.
    """
    ahead = (1.0 - gamma) * violation + gamma * torch.maximum(violation, next_value)
    return torch.where(alive > 0, ahead, violation)


def return_target(signal: Tensor, next_value: Tensor, alive: Tensor, gamma: float) -> Tensor:
    """Apply the ordinary discounted Bellman operator to a reward or cost `signal`; arguments broadcast."""
    return signal + gamma * alive * next_value


def behaviour_values(
    rewards: Tensor, costs: Tensor, violation: Tensor, episode_ends: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the data's own actions went on to achieve: reward value, feasible value, cost value, each (N,).

    They are the fixed points of the two operators above along each recorded episode, so with deterministic dynamics
    the optimal reward value is at least the first, and the optimal feasible and cost values are at most the others.
    The critics may therefore bound their targets by them, which removes the many thousand steps in which a
    bootstrapped value is still wrong about a future that the data has seen.
    """
    starts = torch.cat([episode_ends.new_zeros(1), episode_ends[:-1]])
    lengths = episode_ends - starts
    returns, feasible, cost = (
        torch.empty_like(rewards),
        torch.empty_like(violation),
        torch.empty_like(rewards),
    )
    order = torch.argsort(lengths, descending=True)
    starts, lengths = starts[order], lengths[order]
    ends = starts + lengths
    reward_next = rewards.new_zeros(len(ends))
    feasible_next = violation.new_zeros(len(ends))
    cost_next = rewards.new_zeros(len(ends))
    longest = int(lengths[0]) if len(lengths) else 0
    for back in range(1, longest + 1):  # from the last step of every episode backwards, all episodes at once
        live = int((lengths >= back).sum())
        row = ends[:live] - back
        alive = torch.full((live,), float(back > 1), device=rewards.device)
        reward_next[:live] = return_target(rewards[row], reward_next[:live], alive, gamma)
        cost_next[:live] = return_target(costs[row], cost_next[:live], alive, gamma)
        feasible_next[:live] = feasible_target(violation[row], feasible_next[:live], alive, gamma)
        returns[row], feasible[row], cost[row] = reward_next[:live], feasible_next[:live], cost_next[:live]
    return returns, feasible, cost
