"""Speed and memory of FISOR at the paper's sizes: a joint update, and a decision of sixteen candidates."""

import statistics
import time

import torch
from omegaconf import DictConfig
from rich.console import Console

from diffpolicy.cli.benches.measuring import Measurement, gemm_rate, peak_memory_gb, timed
from diffpolicy.cli.common import policy_config
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.policies import Arm, CandidatePolicy, DiffusionActors, FisorLearner, Observation
from diffpolicy.safety import Critics

OBSERVATION, ACTION = 72, 2  # CarGoal1, the task of the published figures


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
            seconds.append(timed(lambda: learner.update(cfg.warmup), device))
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
        milliseconds.append(1e3 * timed(lambda: policy.act(observation, memory), device))
    product = 2 * 1024**3 / gemm_rate(device) / 1e6
    cuts = statistics.quantiles(milliseconds, n=100)
    notes = {
        "calls": float(len(milliseconds)),
        "p95_ms": cuts[94],
        "p99_ms": cuts[98],
        "peak_memory_gb": peak_memory_gb(),
    }
    return Measurement(cuts[49], "ms (median)", product, "fp32 GEMM 1024^3, ms", notes)
