"""`diffpolicy demo-robot`: a policy server and a controller, two processes, move an arm in MuJoCo in real time.

Without `checkpoint` it first trains a small policy on the shipped Push-T demonstrations.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.robot_processes import Watched, control, ours, policy_server
from diffpolicy.evaluation import provenance


def main(cfg: DictConfig) -> None:
    """Train or take the policy, drive the arm, write report.md, result.json and track.png into `cfg.run`."""
    console = Console(soft_wrap=True, highlight=False)
    folder = Path(cfg.run)
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.seconds <= 0 or cfg.rate <= 0:
        raise ConfigError(f"seconds={cfg.seconds} and rate={cfg.rate} [Hz] are above 0")
    checkpoint = Path(cfg.checkpoint) if cfg.checkpoint else train(folder / "policy", cfg.updates, console)
    watched = drive(cfg, [f"checkpoint={checkpoint}", f"arm={cfg.arm}"], folder, console)
    text = report(cfg, watched)
    (folder / "report.md").write_text(f"# demo-robot\n\n{text}\n\n![track](track.png)\n")
    document = {
        "machine": provenance.machine(),
        "arm": cfg.arm,
        "rate": cfg.rate,
        "seed": cfg.seed,
        "priority": cfg.priority,
        "load": list(os.getloadavg()),  # of the machine, others included
        "memory": {
            "seconds": watched.times,
            "server": watched.server_memory,
            "controller": watched.controller_memory,
        },
        **watched.controller,
    }
    (folder / "result.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    draw(folder, cfg.rate)
    console.print(f"\n{text}\n\nreport: {folder / 'report.md'}\nplot:   {folder / 'track.png'}")


def train(folder: Path, updates: int, console: Console) -> Path:
    """Train a chunk policy (MLP, `updates` updates, seed 0) on Push-T's shipped demonstrations; return its run."""
    console.print(f"policy: diffusion_mlp, {updates} updates on the shipped Push-T demonstrations, seed 0")
    options = ["policy=diffusion_mlp", "task=PushT", "judge=null", f"run={folder}"]
    options += [f"policy.optimizer.updates={updates}", f"checkpoint_every={updates}"]
    done = subprocess.run([*ours("diffpolicy"), "train", *options], check=False)
    if done.returncode != 0:
        raise ConfigError(f"training failed with exit status {done.returncode}; what it said stands above")
    return folder


def drive(cfg: DictConfig, policy: list[str], folder: Path, console: Console) -> Watched:
    """Serve `policy` and control the arm for `cfg.seconds`."""
    told = [0.0]

    def tell(seconds: float) -> None:
        if seconds - told[0] >= 10.0:
            told[0] = seconds
            console.print(f"  {seconds:.0f} s of {cfg.seconds:.0f}", style="dim")

    console.print(
        f"arm: two joints in MuJoCo, {cfg.rate:g} Hz, {cfg.seconds:g} s in real time; policy {cfg.arm}"
    )
    with policy_server([*policy, f"run={folder / 'serve'}"], folder / "server.log") as (uri, process):
        console.print(f"server: {uri}, process {process}; its status page is there for a browser")
        return control(uri, process, folder, cfg.seconds, cfg.rate, cfg.seed, cfg.priority, tell)


def report(cfg: DictConfig, watched: Watched) -> str:
    """Return what happened as Markdown."""
    document = watched.controller
    found: dict[str, Any] = document["report"]
    steps = {name: count for name, count in found["steps"].items() if count}
    best = document["coverages"][:-1] or document["coverages"]  # the last block's time was not over
    lines = [
        "| | |",
        "|---|---|",
        f"| periods of {1e3 / cfg.rate:g} ms, {found['seconds']:.1f} s | {found['periods']} |",
        f"| missed deadlines | {found['missed']} ({100 * found['missed'] / max(found['periods'], 1):.3f} %) |",
        f"| shield bypasses | {found['bypasses']} of {found['sent']} commands sent |",
        f"| shield steps | {', '.join(f'{name} {count}' for name, count in steps.items()) or 'none'} |",
        f"| latched | {found['latched'] or 'no'} |",
        f"| chunks, actions that came late | {found['chunks']}, {found['dropped_actions']} |",
        f"| blocks pushed, mean of their best coverages | {len(best)}, {np.mean(best):.2f} |",
        "",
        "| time [ms] | p50 | p95 | p99 | max |",
        "|---|---|---|---|---|",
    ]
    names = {
        "lateness": "from a period's beginning until its command is sent",
        "delay": "from an observation until its chunk is there",
        "inference": "of that, the policy",
    }
    for key, name in names.items():
        if found[key]:
            times = " | ".join(f"{found[key][which]:.2f}" for which in ("p50", "p95", "p99", "max"))
            lines.append(f"| {name} | {times} |")
    return "\n".join(lines)


def draw(folder: Path, rate: float) -> None:
    """Draw commands and tip over time, and the way over the table, into track.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with np.load(folder / "track.npz", allow_pickle=False) as stored:
        commands, states = stored["commands"], stored["states"]
    times = np.arange(len(commands)) / rate
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=[2, 1])
    shown = slice(0, round(30 * rate))
    for row, name in enumerate("xy"):
        axis = figure.add_subplot(grid[row, 0])
        axis.plot(times[shown], commands[shown, row], lw=1.0, label="command")
        axis.plot(times[shown], states[shown, row], lw=1.0, label="tip")
        axis.set_ylabel(f"{name} [pixel]")
    axis.set_xlabel("time [s], the first half minute")
    axis.legend(fontsize="small")
    table = figure.add_subplot(grid[:, 1], aspect="equal")
    table.plot(states[:, 0], states[:, 1], lw=0.5, label="tip")
    table.plot(states[:, 2], states[:, 3], ".", ms=1, label="block")
    table.set(xlim=(0, 512), ylim=(0, 512), title="over the table [pixel]")
    table.legend(fontsize="small", loc="upper left")
    figure.savefig(folder / "track.png", dpi=100)
