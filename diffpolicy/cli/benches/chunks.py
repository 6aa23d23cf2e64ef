"""Speed of chunk policies: decisions of every arm on one core, and one pass of the published UNet."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy.cli.benches.measuring import Measurement, gemm_rate
from diffpolicy.cli.common import dataset_path
from diffpolicy.cli.demonstrations import make_learner
from diffpolicy.cli.errors import ConfigError
from diffpolicy.diffusion import Sampler
from diffpolicy.policies import ChunkModel, ChunkPolicy, History, parse_arm
from diffpolicy.policies.acting import chunk_policy
from diffpolicy.policies.inference import Inference
from diffpolicy.policies.runtimes import compile_inference
from diffpolicy.policies.streaming import StreamingPolicy

UNROLLED = 20  # evaluations, at most, in one compiled graph: exporting a hundred takes many minutes


def latency(cfg: DictConfig, device: torch.device) -> Measurement:
    """Time decisions of one robot for every arm of a model with untrained weights, plain and compiled."""
    for name in ("headline", "reference"):
        if cfg[name] not in cfg.arms:
            raise ConfigError(f"{name}={cfg[name]} is not among arms={list(cfg.arms)}")
    if not compilable(cfg.headline):
        raise ConfigError(
            f"headline={cfg.headline} is not compiled (streaming, or more than {UNROLLED} steps): name another arm"
        )
    task = envs.task(cfg.task)
    learner, _ = make_learner(task, dataset_path(task, None), cfg.policy, cfg.seeds[0], device)
    model = learner.average.eval()
    states = learner.windows.batch(torch.arange(0, len(learner.windows), 97)).states
    rows: dict[str, dict[str, float]] = {}
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{'arm':<24}{'runtime':<10}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}  [ms]   control steps/s"
    )
    for arm in cfg.arms:
        for runtime in ("eager", cfg.runtime):
            if runtime != "eager" and not compilable(arm):
                continue
            sampling = None if runtime == "eager" else compiler(runtime, cfg.threads or 1)
            row = decisions(chunk_policy(model, arm, sampling=sampling, device=device), states, cfg)
            rows[f"{arm}/{runtime}"] = row
            figures = "".join(f"{row[name]:8.3f}" for name in ("p50", "p95", "p99", "max"))
            console.print(f"{arm:<24}{runtime:<10}{figures}  {row['steps_per_second']:17.0f}")
    return Measurement(
        rows[f"{cfg.headline}/{cfg.runtime}"]["p99"],
        f"ms (p99 of {cfg.headline}, {cfg.runtime})",
        rows[f"{cfg.reference}/eager"]["p50"],
        f"p50 of {cfg.reference}, plain PyTorch, ms",
        {"parameters": float(parameters(model)), "rows": rows},
    )


def compilable(arm: str) -> bool:
    """Return whether an arm is timed compiled: streaming keeps a buffer of its own, and long loops are unrolled."""
    parsed = parse_arm(arm)
    return parsed.kind != "streaming" and parsed.cold.steps <= UNROLLED


def compiler(runtime: Any, threads: int) -> Callable[[Inference], Any]:
    """Return what compiles an inference for one robot."""
    return lambda inference: compile_inference(inference, runtime, threads=threads)


def decisions(
    policy: ChunkPolicy | StreamingPolicy, states: torch.Tensor, cfg: DictConfig
) -> dict[str, float]:
    """Return quantiles of the time [ms] of a decision along demonstrations, after the first `cfg.warmup`."""
    history, memory = History(policy.observation_horizon), policy.start(1, seed=0)
    milliseconds: list[float] = []
    for index in range(cfg.decisions + cfg.warmup):
        observation = history.add(states[index % len(states)][-1:])
        started = time.perf_counter()
        chunk, memory = policy.act(observation, memory)
        chunk.actions.cpu()
        milliseconds.append(1e3 * (time.perf_counter() - started))
    kept = np.array(milliseconds[max(cfg.warmup, 1) :])  # the first decision is cold for every arm
    p50, p95, p99, longest = (round(float(cut), 4) for cut in np.quantile(kept, [0.5, 0.95, 0.99, 1.0]))
    steps = round(1e3 * policy.execute / float(kept.mean()), 1)
    return {"p50": p50, "p95": p95, "p99": p99, "max": longest, "steps_per_second": steps}


def unet(cfg: DictConfig, device: torch.device) -> Measurement:
    """Time one denoiser evaluation of the configured network at batch 1, compiled against plain, by turns."""
    task = envs.task("PushT")
    learner, _ = make_learner(task, dataset_path(task, None), cfg.policy, cfg.seeds[0], device)
    model = learner.average.eval()
    inference = Inference(model, Sampler(model.process, "ddim", (50,), clip=1.0))
    threads = cfg.threads or torch.get_num_threads()
    loops = {name: compile_inference(inference, name, threads=threads) for name in ("eager", cfg.runtime)}
    states = learner.windows.batch(torch.arange(1)).states
    noise = torch.randn(1, 1, model.prediction_horizon, model.action_size)
    times: dict[str, list[float]] = {name: [] for name in loops}
    rates = [gemm_rate(device)]
    started = time.perf_counter()
    while time.perf_counter() - started < cfg.seconds or len(times["eager"]) < cfg.warmup + 10:
        for name, loop in loops.items():  # by turns, so that what else the machine does meets both
            before = time.perf_counter()
            loop(states, noise, None)
            times[name].append(1e3 * (time.perf_counter() - before))
    rates.append(gemm_rate(device))
    medians = {name: statistics.median(values[cfg.warmup :]) for name, values in times.items()}
    notes = {
        "parameters": float(parameters(model)),
        "calls": float(len(times["eager"])),
        "gemm_gflops": max(rates),
        **{
            f"p99_ms_{name}": float(np.quantile(values[cfg.warmup :], 0.99)) for name, values in times.items()
        },
    }
    return Measurement(
        medians[cfg.runtime], f"ms (median, {cfg.runtime})", medians["eager"], "plain PyTorch, ms", notes
    )


def parameters(model: ChunkModel) -> int:
    """Return the number of weights of the network behind a model."""
    return sum(weight.numel() for weight in model.network.parameters())
