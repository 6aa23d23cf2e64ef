"""The results of the suite `rti`: episodes of every arm, its latency, delayed execution and the jump test."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from omegaconf import DictConfig

from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.suites.jobs import Job
from diffpolicy.cli.suites.rti_networks import Trained, compiled
from diffpolicy.evaluation import Episode, latency, provenance
from diffpolicy.evaluation.delays import Execution, delay_steps, delayed
from diffpolicy.evaluation.jump import play_jump, play_undisturbed
from diffpolicy.evaluation.protocol import episode_seeds
from diffpolicy.evaluation.rollout import play
from diffpolicy.evaluation.summary import Episodes
from diffpolicy.policies import Policy, parse_arm

OVERHEAD = 1.0  # a control step of the simulator, in evaluations of a network
Make = Callable[[Policy, Sequence[int]], list[Episode]]


def score_jobs(cfg: DictConfig, trained: Trained, arm: str, vector: Any) -> list[Job]:
    """Return the episodes of an arm, one job for each training seed."""
    return _member_jobs(cfg, trained, arm, "", partial(trained.policy, arm), _way(trained, vector))


def delay_jobs(cfg: DictConfig, trained: Trained, vector: Any) -> dict[tuple[str, float], list[Job]]:
    """Return the episodes of one arm under every execution and injected latency [s]."""
    asked = cfg.delays
    if trained.task.name not in asked.tasks or trained.network not in asked.networks:
        return {}

    def policy(execution: Execution, steps: int, member: int) -> Policy:
        return delayed(partial(trained.planner, asked.arm, member), execution, steps)

    found = {}
    for execution in asked.executions:
        for seconds in asked.latencies:
            steps = delay_steps(seconds, trained.task.control_rate)
            players = partial(policy, execution, steps)
            variant = f"{execution}-{steps}"
            found[execution, seconds] = _member_jobs(
                cfg, trained, asked.arm, variant, players, _way(trained, vector)
            )
    return found


def jump_jobs(cfg: DictConfig, trained: Trained, vector: Any) -> dict[tuple[str, bool], list[Job]]:
    """Return the episodes of the jump test: of every arm with a jump and without, over as many steps."""
    asked = cfg.jump
    if trained.task.name not in asked.tasks or trained.network not in asked.networks:
        return {}
    if trained.task.score != "best_reward":
        raise ConfigError(
            f"jump.tasks: {trained.task.name} is scored by {trained.task.score}, of which nobody knows whether it came "
            "before the jump; name tasks scored by their best reward, such as PushT"
        )
    steps = trained.task.max_episode_steps - asked.at
    ways: dict[bool, Make] = {
        True: lambda policy, seeds: play_jump(policy, vector, seeds, at=asked.at, after=steps),
        False: lambda policy, seeds: play_undisturbed(policy, vector, seeds, steps=steps),
    }
    return {
        (arm, jump): _member_jobs(
            cfg, trained, arm, f"{'jump' if jump else 'still'}-{asked.at}", partial(trained.policy, arm), way
        )
        for arm in asked.arms
        for jump, way in ways.items()
    }


def _way(trained: Trained, vector: Any) -> Make:
    return lambda policy, seeds: play(policy, vector, seeds, until_success=trained.task.score == "success")


def _member_jobs(
    cfg: DictConfig, trained: Trained, arm: str, variant: str, policy: Callable[[int], Policy], way: Make
) -> list[Job]:
    """Return a job for each training seed, which plays the seed's episodes in a way with `policy(member)`."""

    def make(member: int) -> list[dict[str, Any]]:
        return [asdict(one) for one in way(policy(member), episode_seeds(cfg.seed, member, cfg.episodes))]

    jobs = []
    weight = OVERHEAD + trained.evaluations(arm)[0]
    for member, seed in enumerate(cfg.seeds):
        name = "-".join(part for part in (arm, variant, f"seed-{seed}") if part)
        first = episode_seeds(cfg.seed, member, cfg.episodes).start
        of = {"weights": trained.weights[member], "first": first, "episodes": cfg.episodes}
        jobs.append(Job(name, trained.folder / f"{name}.json", of, partial(make, member), weight))
    return jobs


def latency_job(cfg: DictConfig, trained: Trained, arm: str) -> Job:
    """Return how long an arm's decisions take [ms], by runtime, with the first training seed."""
    asked = cfg.latency
    streaming = parse_arm(arm).kind == "streaming"  # keeps a buffer of its own, which no runtime compiles
    runtimes: list[Any] = ["eager"] if streaming else list(asked.runtimes)
    seed = cfg.seed - 1_000  # other episodes than the score's

    def make() -> dict[str, Any]:
        return {
            runtime: asdict(
                latency.measure(
                    trained.policy(arm, 0, **compiled(runtime)),
                    trained.task.id,
                    seed,
                    decisions=asked.decisions,
                )
            )
            for runtime in runtimes
        }

    of = {
        "weights": trained.weights[0],
        "decisions": asked.decisions,
        "runtimes": runtimes,
        "machine": provenance.machine(),
    }
    return Job(f"{arm}-latency", trained.folder / f"{arm}-latency.json", of, make)


def played(jobs: Sequence[Job]) -> Episodes:
    """Return the episodes of jobs, a row for each."""
    return tuple(tuple(Episode(**episode) for episode in job.result()) for job in jobs)
