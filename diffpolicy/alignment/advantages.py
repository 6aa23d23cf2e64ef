"""Advantages: how much better a sample is than what was to be expected of it."""

from collections import deque
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from diffpolicy.training.errors import FeedbackError

Scale = Literal["global", "group", "none"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class Advantages(NamedTuple):
    """Advantages (B,), and how many groups teach nothing because all their rewards are equal."""

    values: Tensor
    flat_groups: int


def group_advantages(
    rewards: Tensor,
    group: Tensor,
    scale: Scale = "global",
    epsilon: float = 1e-4,
    clip: float | None = 5.0,
) -> Advantages:
    """Return `(r - mean of its group)/(std + epsilon)`, clipped to +-clip, for rewards (B,) in groups (B,) int64.

    The deviation, not corrected for the sample's size, is that of all rewards ("global": Flow-GRPO, DiffusionNFT,
    AWM), of the group (DanceGRPO) or 1 ("none"). A group whose rewards are all equal has advantage exactly 0, which
    the division would otherwise make of rounding errors what it likes.

    Raises:
        ValueError: if rewards are not finite, the shapes differ, or an option is not one.
    """
    _check(rewards, group)
    if scale not in SCALES:
        raise ValueError(f"advantages are scaled by one of {', '.join(SCALES)}, not {scale!r}")
    if epsilon < 0.0 or (clip is not None and not clip > 0.0):
        raise ValueError(f"advantages need epsilon >= 0 and a positive clip, got {epsilon} and {clip}")
    exact = rewards.double()
    index, mean, count = _group_means(exact, group)
    centred = exact - mean[index]
    low = torch.full_like(mean, torch.inf).scatter_reduce(0, index, exact, "amin")
    high = torch.full_like(mean, -torch.inf).scatter_reduce(0, index, exact, "amax")
    flat = low == high
    match scale:
        case "global":
            centred = centred / (exact.std(correction=0) + epsilon)
        case "group":
            variance = torch.zeros_like(mean).index_add(0, index, centred.square()) / count
            centred = centred / (variance.sqrt() + epsilon)[index]
        case "none":
            pass
    # After the division: a flat group may have been divided by zero.
    centred = torch.where(flat[index], 0.0, centred)
    if clip is not None:
        centred = centred.clamp(-clip, clip)
    return Advantages(centred.to(rewards), int(flat.sum()))


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """Return each reward less the mean of the others of its group, (B,): the unbiased baseline of RLOO.

    It is `n/(n-1) (r - mean)` in a group of n (Kool et al. 2019, eq. 8).

    Raises:
        ValueError: if rewards are not finite, the shapes differ, or a group has a single sample.
    """
    _check(rewards, group)
    index, mean, count = _group_means(rewards.double(), group)
    if (count < 2).any():
        raise ValueError(
            "leave-one-out compares a sample with the others of its group: groups need two or more"
        )
    factor = count / (count - 1)
    return (factor[index] * (rewards.double() - mean[index])).to(rewards)


def softmax_weights(rewards: Tensor, temperature: float, group: Tensor | None = None) -> Tensor:
    """Return `n softmax(r/temperature)` (B,), of mean 1 over the batch or, with `group` (B,), over each group.

    The weights of reward-weighted regression (RWR, as in DDPO, Black et al. 2024, section 4.1).

    Raises:
        ValueError: if rewards are not finite, the shapes differ, or the temperature is not positive.
    """
    group = torch.zeros_like(rewards, dtype=torch.int64) if group is None else group
    _check(rewards, group)
    if not temperature > 0.0:
        raise ValueError(f"the temperature of the weights is positive, got {temperature}")
    exact = rewards.double() / temperature
    _, index = torch.unique(group, return_inverse=True)
    largest = exact.new_full((int(index.max()) + 1,), -torch.inf).scatter_reduce(0, index, exact, "amax")
    weights = (exact - largest[index]).exp()
    _, mean, _ = _group_means(weights, group)
    return (weights / mean[index]).to(rewards)


class PromptBuffer:
    """Rewards of the last `size` samples of every prompt, for advantages when a batch has few of each (DDPO).

    A prompt with fewer than `minimum` rewards takes mean and deviation from the batch instead (Black et al. 2024,
    section 4.2 and its code: 16 and 16; 32 and 16 for the aesthetic reward).
    """

    def __init__(self, size: int = 16, minimum: int = 16, epsilon: float = 1e-6, clip: float = 5.0) -> None:
        if not 1 <= minimum <= size:
            raise ValueError(f"a buffer needs 1 <= minimum <= size, got minimum={minimum} and size={size}")
        self.size, self.minimum, self.epsilon, self.clip = size, minimum, epsilon, clip
        self._rewards: dict[int, deque[float]] = {}

    def advantages(self, rewards: Tensor, prompt: Tensor) -> Advantages:
        """Remember rewards (B,) of prompts (B,) int64 and return the advantages (B,), clipped to +-clip.

        Raises:
            ValueError: if rewards are not finite or the shapes differ.
        """
        _check(rewards, prompt)
        exact = rewards.double().cpu()
        values, flat = torch.zeros_like(exact), 0
        for name in torch.unique(prompt).tolist():
            rows = (prompt == name).cpu()
            known = self._rewards.setdefault(name, deque(maxlen=self.size))
            known.extend(exact[rows].tolist())
            enough = len(known) >= self.minimum
            against = torch.tensor(known, dtype=torch.float64) if enough else exact
            if against.min() == against.max():
                flat += 1
                continue
            values[rows] = (exact[rows] - against.mean()) / (against.std(correction=0) + self.epsilon)
        return Advantages(values.clamp(-self.clip, self.clip).to(rewards), flat)

    def state(self) -> dict[str, Any]:
        """Return what is remembered, by prompt."""
        return {str(name): list(known) for name, known in self._rewards.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._rewards = {int(name): deque(known, maxlen=self.size) for name, known in state.items()}


def gae(rewards: Tensor, values: Tensor, done: Tensor, gamma: float, lam: float) -> Tensor:
    """Return generalised advantages (T, ...) of rewards (T, ...), values (T+1, ...) and done (T, ...) bool.

    `A_t = delta_t + gamma lam (1 - done_t) A_{t+1}`, `delta_t = r_t + gamma (1 - done_t) V_{t+1} - V_t` (Schulman et
    al. 2016, eq. 16); values[-1] are those of the states after the last step. One step is one decision of a robot,
    a whole chunk, and its advantage is shared by all its denoising steps (DPPO).

    Raises:
        ValueError: if the shapes do not fit together, or the factors are outside 0 to 1.
    """
    if rewards.shape != done.shape or values.shape != (len(rewards) + 1, *rewards.shape[1:]):
        raise ValueError(
            "advantages over T steps take rewards and done (T, ...) and values (T+1, ...), "
            f"got {tuple(rewards.shape)}, {tuple(done.shape)} and {tuple(values.shape)}"
        )
    if not (0.0 <= gamma <= 1.0 and 0.0 <= lam <= 1.0):
        raise ValueError(f"gamma and lam lie between 0 and 1, got {gamma} and {lam}")
    goes_on = 1.0 - done.to(rewards)
    deltas = rewards + gamma * goes_on * values[1:] - values[:-1]
    advantages, following = torch.empty_like(rewards), torch.zeros_like(values[-1])
    for step in reversed(range(len(rewards))):
        following = deltas[step] + gamma * lam * goes_on[step] * following
        advantages[step] = following
    return advantages


def check_complete(group: Tensor, size: int) -> None:
    """Check that every group of `group` (B,) int64 has `size` samples.

    Raises:
        FeedbackError: if one has not: its mean would be that of other samples than were compared.
    """
    names, counts = torch.unique(group, return_counts=True)
    wrong = (counts != size).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise FeedbackError(
            f"{len(wrong)} of {len(names)} groups are incomplete: group {names[first].item()} has "
            f"{counts[first].item()} of {size} samples"
        )


def _group_means(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the group's index of every row (B,), and the means and counts of the groups (G,)."""
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), dtype=values.dtype, device=values.device).index_add(0, index, values)
    count = count.to(values)
    return index, total / count, count


def _check(rewards: Tensor, group: Tensor) -> None:
    if rewards.ndim != 1 or rewards.shape != group.shape or not len(rewards):
        raise ValueError(
            "rewards and groups are one number for each sample, (B,), "
            f"got the shapes {tuple(rewards.shape)} and {tuple(group.shape)}"
        )
    if not torch.isfinite(rewards).all():
        bad = int((~torch.isfinite(rewards)).nonzero()[0])
        raise ValueError(f"rewards are finite numbers, that of sample {bad} is {rewards[bad].item()}")
