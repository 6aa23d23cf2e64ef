"""Branches made by hand."""

import torch
from torch import Tensor

from diffpolicy.diffusion import Path
from diffpolicy.refinement import Branches


def made(rewards: Tensor, **flags: Tensor) -> Branches:
    """Return branches (T, n) of states that are all the same."""
    steps, count = rewards.shape
    no = torch.zeros(steps, count, dtype=torch.bool)
    last = no.clone()
    last[-1] = True
    states = torch.zeros(steps, count, 2)
    path = Path(torch.zeros(2, steps * count, 1), (0,), torch.zeros(1, steps * count))
    usual = {"terminated": no, "truncated": last, "unknown": no, "counted": ~no, "costs": rewards.clone()}
    return Branches(
        states, states, path, rewards, uncertainty=torch.zeros_like(rewards), **{**usual, **flags}
    )
