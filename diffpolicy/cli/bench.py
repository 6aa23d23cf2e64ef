"""`diffpolicy bench NAME`: speed and memory of this machine, in minutes; ends with one line of JSON.

A ratio to a reference measured in the same run means the same on any machine; seconds alone do not.
"""

import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from rich.console import Console

from diffpolicy.cli.common import compute_device, policy_config
from diffpolicy.cli.errors import ConfigError
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.evaluation.provenance import machine
from diffpolicy.policies import Arm, CandidatePolicy, DiffusionActors, FisorLearner, Observation
from diffpolicy.safety import Critics

OBSERVATION, ACTION = 72, 2  # CarGoal1, the task of the published figures


class Measurement(NamedTuple):
    """One figure and the reference measured beside it."""

    value: float
    unit: str
    reference: float
    reference_name: str
    notes: dict[str, float]


def main(cfg: DictConfig) -> None:
    """Run the bench `cfg.name` and print its result."""
    if cfg.name not in BENCHES:
        raise ConfigError(f"bench has no {cfg.name!r}; there are {', '.join(BENCHES)}")
    device = compute_device(cfg)
    result = BENCHES[cfg.name](cfg, device)
    console = Console(highlight=False, soft_wrap=True)
    for note, figure in result.notes.items():
        console.print(f"{note}: {figure:.4g}")
    line = {
        "name": cfg.name,
        "value": round(result.value, 4),
        "unit": result.unit,
        "reference": round(result.reference, 4),
        "reference_name": result.reference_name,
        "ratio": round(result.value / result.reference, 6),
        "machine": {**machine(), "threads": torch.get_num_threads(), "device": device.type},
        **{note: round(figure, 4) for note, figure in result.notes.items()},
    }
    if cfg.save is not None:
        Path(cfg.save).write_text(json.dumps(line, indent=1) + "\n")
    print(json.dumps(line))


def random_dataset(transitions: int) -> OfflineDataset:
    """Return noise in the shape of a dataset: 1000-step episodes, one violation in twenty steps."""
    generator = torch.Generator().manual_seed(0)
    horizon = 1_000
    episodes = transitions // horizon
    count = episodes * horizon
    index = torch.arange(count)
    ends = (torch.arange(episodes) + 1) * horizon
    timeouts = torch.zeros(count, dtype=torch.bool)
    timeouts[ends - 1] = True
    return OfflineDataset(
        observations=torch.empty(count + episodes, OBSERVATION).normal_(generator=generator),
        rows=index + index // horizon,
        actions=torch.empty(count, ACTION).uniform_(-1, 1, generator=generator),
        rewards=torch.empty(count).normal_(generator=generator),
        costs=(torch.rand(count, generator=generator) < 0.05).float(),
        terminals=torch.zeros(count, dtype=torch.bool),
        timeouts=timeouts,
        episode_ends=ends,
    )


def _timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def gemm_rate(device: torch.device, repeats: int = 20) -> float:
    """Return the best fp32 rate of a 1024^3 matrix product, in GFLOP/s."""
    a, b = torch.randn(2, 1024, 1024, device=device)
    return 2 * 1024**3 / min(_timed(lambda: a @ b, device) for _ in range(repeats)) / 1e9


def peak_memory_gb() -> float:
    """Return the peak resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def fisor_train(cfg: DictConfig, device: torch.device) -> Measurement:
    """Time paper-size joint updates: two actor steps of 1024 and critics of 256 on random data."""
    config = policy_config(cfg.policy)
    learner = FisorLearner(random_dataset(cfg.transitions), config, list(cfg.seeds), 1.0, device)
    rates = [gemm_rate(device)]
    for step in range(cfg.warmup):
        learner.update(step)
    seconds: list[float] = []
    with Console(stderr=True).status("measuring"):
        started = time.perf_counter()
        while time.perf_counter() - started < cfg.seconds or len(seconds) < 5:
            seconds.append(_timed(lambda: learner.update(cfg.warmup), device))
    rates.append(gemm_rate(device))
    notes = {
        "updates": float(len(seconds)),
        "best_updates_per_s": 1.0 / min(seconds),
        "peak_memory_gb": peak_memory_gb(),
        "transitions": float(len(learner.data)),
        "training_seeds": float(len(cfg.seeds)),
    }
    if device.type == "cuda":
        notes["peak_device_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1024**3
    return Measurement(
        1.0 / statistics.median(seconds), "updates/s", max(rates), "fp32 GEMM 1024^3, GFLOP/s", notes
    )


def fisor_act(cfg: DictConfig, device: torch.device) -> Measurement:
    """Time one decision: one observation, 16 candidates, 5 denoising steps, the paper's networks."""
    config = policy_config(cfg.policy)
    generator = torch.Generator().manual_seed(0)
    sizes = (OBSERVATION, ACTION)
    actors = DiffusionActors(1, *sizes, config.actor, generator).to_device(device)
    critics = Critics(1, *sizes, ("reward", "feasibility"), config.critic, generator).to(device)
    standardizer = Standardizer(torch.zeros(OBSERVATION), torch.ones(OBSERVATION)).to(device)
    precision = torch.bfloat16 if config.actor.bfloat16 else torch.float32
    arm = Arm("fisor", "safest", 16)
    policy = CandidatePolicy(actors, critics, standardizer, arm, precision=precision, compiled=cfg.compiled)
    memory = policy.start(1, seed=0)
    observation = Observation(torch.randn(1, 1, OBSERVATION, generator=generator))
    for _ in range(cfg.warmup):
        policy.act(observation, memory)
    milliseconds: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < cfg.seconds or len(milliseconds) < 50:
        milliseconds.append(1e3 * _timed(lambda: policy.act(observation, memory), device))
    product = 2 * 1024**3 / gemm_rate(device) / 1e6
    cuts = statistics.quantiles(milliseconds, n=100)
    notes = {
        "calls": float(len(milliseconds)),
        "p95_ms": cuts[94],
        "p99_ms": cuts[98],
        "peak_memory_gb": peak_memory_gb(),
    }
    return Measurement(cuts[49], "ms (median)", product, "fp32 GEMM 1024^3, ms", notes)


BENCHES: dict[str, Callable[[DictConfig, torch.device], Measurement]] = {
    "fisor-train": fisor_train,
    "fisor-act": fisor_act,
}
