"""Whole imagined episodes of the policy that is to be deployed, from the moments in which real ones began."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.policies import History, Policy
from diffpolicy.refinement.errors import RefinementError
from world_models import (
    FrameWindows,
    ImaginedEnv,
    ImaginedEnvConfig,
    PixelWorldModel,
    StateWorldModel,
    Windows,
    advance,
)

AnyModel = StateWorldModel | PixelWorldModel
AnyWindows = Windows | FrameWindows  # those of a model of states are states, those of one of pixels frames
AT_ONCE = 8192  # transitions whose uncertainty is measured at once


class ImaginedEpisodes(NamedTuple):
    """n imagined episodes: returns, costs, mean uncertainties, lengths, and `success` (some reward > .5), all (n,)."""

    returns: Tensor
    costs: Tensor
    uncertainty: Tensor
    lengths: Tensor
    success: Tensor


@torch.no_grad()
def imagine_episodes(policy: Policy, env: ImaginedEnv, seed: int) -> ImaginedEpisodes:
    """Play one episode in every environment, to its end or `env.config.horizon` steps."""
    seen, _ = env.reset(seed=seed)
    memory, history = policy.start(env.num_envs, seed), History(policy.observation_horizon)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=seen.device)
    sums = torch.zeros(4, env.num_envs, device=seen.device)
    success = torch.zeros_like(running)
    waiting: list[Tensor] = []
    for _ in range(env.config.horizon):
        asked = history.add(*sight(seen, env))
        if not waiting:
            chunk, memory = policy.act(asked, memory)
            waiting = list(chunk.actions.to(seen.device).unbind(1))
        seen, rewards, terminated, truncated, infos = env.step(waiting.pop(0))
        step = torch.stack([rewards, infos["cost"], infos["uncertainty"], torch.ones_like(rewards)])
        sums += torch.where(running, step, 0.0)
        success |= running & (rewards > 0.5)
        running &= ~(terminated | truncated)
        if not running.any():
            break
    returns, costs, uncertainty, lengths = sums.unbind()
    return ImaginedEpisodes(returns, costs, uncertainty / lengths, lengths, success)


def sight(seen: Tensor, env: ImaginedEnv) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Return what a policy is shown of imagined observations: states (n, O), or no state and frames by their camera.

    Raises RefinementError for a world model of pixels that was not told the name of its camera.
    """
    if seen.dtype != torch.uint8:
        return seen, None
    if env.model.config.camera is None:
        raise RefinementError(
            "the world model does not say which camera it imagines: train it with PixelConfig(camera=NAME)"
        )
    return seen.new_zeros((len(seen), 0)), {env.model.config.camera: seen}


def first_moments(dataset: OfflineDataset, windows: AnyWindows) -> Tensor:
    """Return the transitions (E,) with which episodes begin."""
    return dataset.episode_starts.to(windows.actions.device)


def episodes_env(model: AnyModel, windows: AnyWindows, starts: Tensor, count: int, steps: int) -> ImaginedEnv:
    """Return an environment of `count` whole episodes of `steps` steps from the transitions `starts` (M,).

    Nothing is cut off: what uncertainty does there is to be seen.
    """
    return ImaginedEnv(model, windows, count, ImaginedEnvConfig(horizon=steps), starts)


@torch.no_grad()
def known_uncertainty(model: AnyModel, windows: AnyWindows, index: Tensor, seed: int = 0) -> float:
    """Return the mean uncertainty of the model at real transitions `index` (M,)."""
    generator = torch.Generator(index.device).manual_seed(seed)
    if not len(index):
        raise RefinementError("there is no transition to compare uncertainty with")
    total = 0.0
    for some in torch.split(index, AT_ONCE):
        member = torch.arange(len(some), device=some.device) % model.members
        moments: Any = windows.window(some)
        total += model.imagine(moments, member, generator).uncertainty.sum().item()
    return total / len(index)


def windows_of(model: AnyModel, dataset: OfflineDataset) -> AnyWindows:
    """Return the moments of a dataset as `model` is shown them, on its device."""
    config, device = model.config, next(model.parameters()).device
    if isinstance(model, PixelWorldModel):
        pixels = model.config
        return FrameWindows(
            dataset, pixels.history, pixels.size, device, pixels.camera, pixels.success_reward
        )
    return Windows(dataset, config.history, device)


class Confusion(NamedTuple):
    """Real episodes by whether they succeeded, and by whether the model says so when it is fed their actions."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def fooled(self) -> float:
        """Which share of real failures the model calls successes; 0 where there was none."""
        failures = self.false_positive + self.true_negative
        return self.false_positive / failures if failures else 0.0


@torch.no_grad()
def replay_confusion(
    model: AnyModel, dataset: OfflineDataset, seed: int = 0, threshold: float = 0.5
) -> Confusion:
    """Feed real actions to the model from where the episodes of `dataset` began, and compare successes.

    A success is a reward above `threshold` at some step, of the simulator or of the model; a model of pixels is shown
    the pictures with which episodes began. It found an exploited
    contact in seconds where closed-loop success was 1.00 (docs/refinement.md).
    """
    windows = windows_of(model, dataset)
    starts = first_moments(dataset, windows)
    lengths = dataset.episode_lengths.to(starts.device)
    generator = torch.Generator(starts.device).manual_seed(seed)
    member = torch.arange(len(starts), device=starts.device) % model.members
    window: Any = windows.window(starts)
    best = torch.zeros(len(starts)).scatter_reduce(0, dataset.episode_of, dataset.rewards, "amax")
    real, imagined = (best > threshold).to(starts.device), torch.zeros_like(starts).bool()
    for step in range(int(lengths.max())):
        running = step < lengths
        here = torch.minimum(starts + step, torch.full_like(starts, len(windows) - 1))
        found = model.imagine(window, member, generator)
        imagined |= running & (found.rewards > threshold)
        following = (here + 1).clamp(max=len(windows) - 1)
        window = advance(window, found.observations, windows.actions[following])
    pairs = ((real & imagined), (~real & imagined), (real & ~imagined), (~real & ~imagined))
    return Confusion(*(int(pair.sum()) for pair in pairs))
