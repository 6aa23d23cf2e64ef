"""The runs of the suite `align-digits` as jobs, side by side in processes of their own."""

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffpolicy.cli.suites.align_digits_runs import gradient_variance, play
from diffpolicy.cli.suites.jobs import Job

RUN_KEYS = ("options", "online", "align", "rule", "steps", "data", "rate_option", "anchor")


def method_options(cfg: DictConfig, name: str, network: str) -> dict[str, Any]:
    """Return what is to be known of a method: what is said of all, of this one, and of it with this network.

    What is said of `online`, `options` and `align` replaces what was said before.
    """
    special = cfg.networks[network].methods.get(name)
    return {**_plain(cfg.usual), "objective": name, **_plain(cfg.methods[name]), **_plain(special)}


def chosen(names: DictConfig, cfg: DictConfig) -> list[str]:
    """Return the names of methods or long runs that are not left out by `only`."""
    return [str(name) for name in names if cfg.only is None or name in cfg.only]


def run_job(
    cfg: DictConfig, network: str, name: str, learning_rate: float, seed: int, base: Path, sha: str
) -> Job:
    """Return the job of one run of a method of `methods`, until it reaches the target."""
    method = method_options(cfg, name, network)
    options = cfg.networks[network]
    stop = {"gold": cfg.target.gold, "manifold": cfg.target.manifold, "lost": cfg.lost}
    online = method["data"] == "online"
    spec = _spec(cfg, network, method, learning_rate, seed, method["calls"] or options.calls, options.every)
    spec["stop"] = stop if online else None
    return _job(cfg, f"{network}/{name}", spec, base, sha)


def long_job(cfg: DictConfig, name: str, seed: int, base: Path, sha: str) -> Job:
    """Return the job of one run of `long`, which goes on to the end of its budget, whatever becomes of it."""
    method = {**_plain(cfg.usual), "objective": name, **_plain(cfg.long.methods[name])}
    every = int(cfg.long.every)
    rate = float(method["learning_rates"][0] if method["learning_rates"] else cfg.long.learning_rate)
    spec = _spec(cfg, cfg.long.network, method, rate, seed, cfg.long.calls, every)
    return _job(cfg, f"long/{name}", spec, base, sha)


def variance_job(cfg: DictConfig, base: Path, sha: str) -> Job:
    """Return the job that measures how the gradients of DRaFT-1 and DRaFT-LV vary at the base."""
    spec = {"network": str(cfg.long.network), "steps": 10, "repeats": 64, "roll_outs": 16}
    path = Path(cfg.run) / "variance.json"
    return Job("variance", path, {**spec, "base": sha}, partial(gradient_variance, spec, str(base)))


def run_pool(jobs: Sequence[Job], cfg: DictConfig, console: Console) -> None:
    """Run the jobs whose results are not kept, `workers` at a time, and print how far it is; none if not to `play`.

    A run that fails leaves no result, is named, and does not stop the others.
    """
    waiting = [job for job in jobs if not job.kept()] if cfg.play else []
    started, failed = time.monotonic(), []
    for done, (job, error) in enumerate(_finished(waiting, cfg.workers), start=1):
        if error is not None:
            failed.append(job.name)
            console.print(f"  FAILED {job.name}: {error}", style="bold")
            continue
        rest = (time.monotonic() - started) / done * (len(waiting) - done) / 60
        console.print(
            f"  {done}/{len(waiting)} {job.name}: {_said(job.result())}; {rest:.0f} min to go", style="dim"
        )
    if failed:
        console.print(f"{len(failed)} runs failed and are left out: {', '.join(failed)}")


def _finished(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, BaseException | None]]:
    """Yield every job with what it failed of, as they end; a single worker is this process."""
    if workers == 1:
        for job in jobs:
            try:
                job.run()
            except Exception as error:
                yield job, error
            else:
                yield job, None
    elif jobs:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            running = {pool.submit(job.run): job for job in jobs}
            for future in as_completed(running):
                yield running[future], future.exception()


def _said(result: Mapping[str, Any]) -> str:
    """Return how a run ended, in a few words."""
    if "curve" not in result:
        return str(result)
    last = result["curve"][-1]
    figures = f"{last['calls']:.0f} calls, gold {last['gold']:.2f}, manifold {last['manifold']:.2f}"
    return f"{result['end']}, {figures}, {result['seconds']:.0f} s"


def _spec(
    cfg: DictConfig,
    network: str,
    method: Mapping[str, Any],
    learning_rate: float,
    seed: int,
    calls: int,
    every: int,
) -> dict[str, Any]:
    per_iteration = int(method["online"]["groups"]) * int(method["online"]["group_size"])
    if method["data"] == "online":
        iterations = calls // per_iteration
    else:
        iterations = int(method["updates"]) // int(method["align"]["updates"])
        every = max(1, iterations // 10)
    return {
        "network": network,
        "objective": method["objective"],
        **{key: method[key] for key in RUN_KEYS},
        "learning_rate": learning_rate,
        "seed": seed,
        "iterations": iterations,
        "every": every,
        "samples": int(cfg.samples),
        "pairs": int(cfg.pairs),
        "stop": None,
    }


def _job(cfg: DictConfig, name: str, spec: dict[str, Any], base: Path, sha: str) -> Job:
    label = f"{name}/{spec['learning_rate']:g}/{spec['seed']}"
    path = Path(cfg.run) / f"{label}.json"
    return Job(label, path, {**spec, "base": sha}, partial(play, spec, str(base)))


def _plain(options: DictConfig | None) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(options, resolve=True) if options is not None else {}
    return dict(found)
