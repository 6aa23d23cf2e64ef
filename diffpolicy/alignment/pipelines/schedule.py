"""The noise of a pipeline: its process, the levels of its sampler, and what its network calls them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffpolicy.diffusion import GaussianProcess, from_diffusers, trailing

_FLOW = "FlowMatchEulerDiscreteScheduler"
_DISTILLED = ("LCMScheduler", "TCDScheduler", "CMStochasticIterativeScheduler")


class Schedule(NamedTuple):
    """A process, the descending levels of its sampler, and the time (T,) that the network is told at each level."""

    process: GaussianProcess
    levels: tuple[int, ...]
    times: Tensor


def read_schedule(scheduler: Any, steps: int, tokens: int, even: bool) -> Schedule:
    """Return the schedule of a diffusers scheduler for `steps` steps.

    A scheduler with betas was made for a variance-preserving process, whatever its own sampler does with it: all its
    training levels are ours, and samplers take the "trailing" ones, which begin where the noise does (Lin et al.
    2024). A flow-matching one has a straight path, whose levels are exactly the times of its own sampler: with the
    pipeline's `shift`, or the dynamic shift for images of `tokens` tokens (Esser et al. 2024, 5.3.2). `even` times are
    1, 1-1/steps, ..., 1/steps before they are shifted, as in FLUX; otherwise the scheduler chooses them.

    Raises:
        ValueError: if the scheduler is of another kind, or there are no such steps.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if steps < 1:
        raise ValueError(f"a sampler takes one step or more, got steps={steps}")
    if name in _DISTILLED:
        raise ValueError(
            f"{name} belongs to a consistency model, which is no denoiser of a Gaussian process: take the model that "
            "it was distilled from"
        )
    if getattr(scheduler, "betas", None) is not None:
        process = from_diffusers(scheduler)
        return Schedule(process, trailing(process.levels, steps), torch.arange(process.levels))
    if name != _FLOW or config.get("invert_sigmas") or config.get("stochastic_sampling"):
        raise ValueError(
            f"{name} has neither betas nor the straight path of {_FLOW}, so its process is not known: give the "
            "pipeline a scheduler that has"
        )
    own = type(scheduler).from_config(config)
    sigmas = np.linspace(1.0, 1.0 / steps, steps) if even else None
    own.set_timesteps(None if even else steps, sigmas=sigmas, mu=_dynamic_shift(config, tokens))
    times = own.timesteps.float().flip(0)
    noise = own.sigmas[:-1].double().flip(0)
    return Schedule(GaussianProcess(1.0 - noise, noise, "flow"), tuple(reversed(range(steps))), times)


def _dynamic_shift(config: Any, tokens: int) -> float | None:
    """Return the shift's logarithm, linear in the number of tokens; None where the shift is fixed."""
    if not config.get("use_dynamic_shifting"):
        return None
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(least + (most - least) * (tokens - low) / (high - low))
