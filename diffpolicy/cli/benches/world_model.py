"""Speed of imagination: imagined steps per second against the real simulator's, and how fast a model learns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import envs
from diffpolicy.cli.benches.measuring import Measurement, peak_memory_gb, timed
from diffpolicy.cli.common import dataset_path, load_dataset
from diffpolicy.cli.train_world_model import model_config
from world_models import StateWorldModel, Window, WorldModelLearner, advance

HEADLINE_BATCH = 64


def world_model(cfg: DictConfig, device: torch.device) -> Measurement:
    """Time everything in turns for `cfg.seconds`, so that a busy moment of the machine meets all alike."""
    task = envs.task(cfg.task)
    dataset = load_dataset(task, dataset_path(task, cfg.data))
    learners = {
        name: WorldModelLearner(dataset, model_config(node), 0, device) for name, node in cfg.models.items()
    }
    policy = mlp(dataset.observation_size, list(cfg.policy.hidden), dataset.action_size).to(device)
    learning = {name: Counter(learner) for name, learner in learners.items()}
    work: dict[tuple[Any, ...], tuple[int, Callable[[], object]]] = {
        (name, "updates"): (1, learning[name]) for name in learners
    }
    for name, learner in learners.items():
        for batch in cfg.batches:
            for way, chooser, all_members in (
                ("one member", None, False),
                ("and a policy", policy, False),
                ("and uncertainty", policy, True),
            ):
                loop = imagining(learner, batch, cfg.steps, chooser, all_members)
                work[name, batch, way] = (cfg.steps * batch, loop)
    with simulating(task.id, cfg.steps) as simulate:
        work["simulator",] = (cfg.steps, simulate)
        rates = measured(work, cfg.seconds, cfg.warmup, device)
    real = rates["simulator",]
    rows = [
        {"model": key[0], "batch": key[1], "way": key[2], "steps_per_s": rate, "ratio": rate / real}
        for key, rate in rates.items()
        if len(key) == 3
    ]
    print_table(rows, real)
    samples = {
        name: rates[name, "updates"] * learner.config.members * learner.config.batch
        for name, learner in learners.items()
    }
    notes = {
        "task": task.name,
        "peak_memory_gb": peak_memory_gb(),
        "training_samples_per_s": {name: round(rate) for name, rate in samples.items()},
        "rows": {f"{row['model']}, {row['batch']}, {row['way']}": round(row["steps_per_s"]) for row in rows},
    }
    return Measurement(
        rates[cfg.headline, HEADLINE_BATCH, "and a policy"],
        f"imagined steps/s ({cfg.headline}, batch {HEADLINE_BATCH}, a policy in the loop)",
        real,
        f"the simulator of {task.name}, steps/s",
        notes,
    )


class Counter:
    """Updates of a learner, one after the other."""

    def __init__(self, learner: WorldModelLearner) -> None:
        self._learner, self._step = learner, 0

    def __call__(self) -> None:
        """Make the next one; after the last it begins with the first."""
        self._learner.update(self._step)
        self._step = (self._step + 1) % self._learner.total_steps


def mlp(inputs: int, hidden: list[int], outputs: int) -> nn.Module:
    """Return a tanh network from observations to actions."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *hidden, outputs]):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)


def imagining(
    learner: WorldModelLearner, batch: int, steps: int, policy: nn.Module | None, all_members: bool
) -> Callable[[], Window]:
    """Return a function that imagines `steps` steps of `batch` episodes from the same real moments."""
    model: StateWorldModel = learner.average
    device = learner.windows.actions.device
    generator = torch.Generator(device).manual_seed(0)
    window = learner.windows.window(torch.arange(batch, device=device))
    member = torch.arange(batch, device=device) % model.members
    imagine = model.imagine if all_members else model.expect

    @torch.inference_mode()
    def imagined() -> Window:
        now = window
        for _ in range(steps):
            following: Tensor = imagine(now, member, generator).observations
            actions = now.actions[:, -1] if policy is None else policy(following)
            now = advance(now, following, actions)
        return now

    return imagined


@contextmanager
def simulating(task: str, steps: int) -> Iterator[Callable[[], None]]:
    """Yield a function that steps the real simulator with random actions, beginning anew where an episode ends."""
    env = envs.make(task)
    env.reset(seed=0)
    env.action_space.seed(0)

    def simulate() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    try:
        yield simulate
    finally:
        env.close()


def measured(
    work: dict[tuple[Any, ...], tuple[int, Callable[[], object]]],
    seconds: float,
    warmup: int,
    device: torch.device,
) -> dict[tuple[Any, ...], float]:
    """Return the median rate of each piece of work, (how much a call does, the call), done in turns."""
    for _, function in work.values():
        for _ in range(warmup):
            function()
    spent, times = 0.0, {name: list[float]() for name in work}
    while spent < seconds or len(times[next(iter(work))]) < 3:
        for name, (_, function) in work.items():
            times[name].append(timed(function, device))
            spent += times[name][-1]
    return {name: amount / median(times[name]) for name, (amount, _) in work.items()}


def print_table(rows: list[dict[str, Any]], real: float) -> None:
    """Print steps per second and how many times that is the simulator's."""
    table = Table(title=f"imagined steps per second; the simulator makes {real:.0f}")
    for name in ("model", "batch", "", "steps/s", "times"):
        table.add_column(name, justify="right" if name in ("batch", "steps/s", "times") else "left")
    for row in rows:
        figures = f"{row['steps_per_s']:.0f}", f"{row['ratio']:.1f}"
        table.add_row(row["model"], str(row["batch"]), row["way"], *figures)
    Console().print(table)
