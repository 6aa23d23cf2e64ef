"""The suite `align-digits`: all alignment methods on digits, by what they cost in reward calls and in realism.

Learning rates are chosen on seeds of their own, for each method and network; all other seeds are reported. Every run is
a result of its own below `run`; the document is made of the runs that are there.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffpolicy.cli.suites.align_digits_document import Found, chosen_rate, document_of, markdown
from diffpolicy.cli.suites.align_digits_jobs import (
    chosen,
    long_job,
    method_options,
    run_job,
    run_pool,
    variance_job,
)
from diffpolicy.cli.suites.align_digits_page import write_figures
from diffpolicy.cli.suites.align_digits_runs import base_file
from diffpolicy.cli.suites.jobs import Job
from diffpolicy.cli.suites.results import header, write
from diffpolicy.data.download import sha256


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console = Console(soft_wrap=True, highlight=False)
    lasting, variance = run_long(cfg, console)  # minutes, where a large network takes an hour
    found = [run_network(cfg, str(network), console) for network in cfg.networks]
    document = {**header(), **document_of(cfg, found, lasting, variance)}
    path = Path(cfg.results)
    write(document, markdown(document), path)
    console.print(f"figures: {len(write_figures(found, lasting, dict(cfg.target), path))} beside it")


def base_of(cfg: DictConfig, network: str) -> tuple[Path, str]:
    """Return the file of a base network, trained if it is not there, and its SHA-256."""
    options = OmegaConf.to_container(cfg.networks[network].base, resolve=True)
    path = base_file(network, dict(options), Path(cfg.run) / f"{network}.pt")  # type: ignore[arg-type]
    return path, sha256(path)


def run_network(cfg: DictConfig, network: str, console: Console) -> Found:
    """Choose a learning rate for every method, and make its runs with the seeds that are reported."""
    console.rule(network)
    base, sha = base_of(cfg, network)
    options = cfg.networks[network]
    tuned: dict[str, dict[float, list[Job]]] = {}
    for name in chosen(cfg.methods, cfg):
        rates = method_options(cfg, str(name), network)["learning_rates"] or options.learning_rates
        tuned[str(name)] = {
            float(rate): [
                run_job(cfg, network, str(name), float(rate), seed, base, sha)
                for seed in options.tuning_seeds
            ]
            for rate in rates
        }
    run_pool([job for rates in tuned.values() for jobs in rates.values() for job in jobs], cfg, console)
    best = {name: chosen_rate(rates, cfg.target) for name, rates in tuned.items()}
    reported = {
        name: [run_job(cfg, network, name, rate, seed, base, sha) for seed in cfg.seeds]
        for name, rate in best.items()
        if rate is not None
    }
    # One seed of every method before the next: what is there at any time speaks of all methods.
    run_pool([jobs[index] for index in range(len(cfg.seeds)) for jobs in reported.values()], cfg, console)
    return Found(network, tuned, {name: rate for name, rate in best.items() if rate}, reported)


def run_long(cfg: DictConfig, console: Console) -> tuple[dict[str, list[Job]], Job]:
    """Make the runs that go on past the target, and measure how gradients vary."""
    console.rule("long runs")
    base, sha = base_of(cfg, cfg.long.network)
    lasting = {
        str(name): [long_job(cfg, str(name), seed, base, sha) for seed in cfg.seeds]
        for name in chosen(cfg.long.methods, cfg)
    }
    variance = variance_job(cfg, base, sha)
    jobs = [jobs[index] for index in range(len(cfg.seeds)) for jobs in lasting.values()]
    run_pool([variance, *jobs], cfg, console)
    return lasting, variance
