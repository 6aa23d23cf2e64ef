"""`diffpolicy align`: fine-tunes digits, pipelines of diffusers and chunk policies; resumes a stopped run."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

import diffpolicy
from diffpolicy import training
from diffpolicy.alignment import AlignConfig, Aligner, OnlineConfig, Term
from diffpolicy.alignment.monitor import Monitor
from diffpolicy.alignment.recipes import (
    RecipeError,
    beside,
    build_experience,
    build_objective,
    config_of,
)
from diffpolicy.alignment.report import write_report
from diffpolicy.alignment.samples import Rollout
from diffpolicy.alignment.stopping import StopRule
from diffpolicy.cli.align_subjects import Subject, load_subject
from diffpolicy.cli.align_summary import summary
from diffpolicy.cli.common import compute_device
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.data import sha256
from diffpolicy.diffusion import DiffusionError
from diffpolicy.networks import NetworkError

FILES = ("prompts", "data")  # options that name files to learn from
NOT_LEARNT_FROM = ("run", "device", "threads", "progress", "checkpoint_every", "log_every", "monitor")


@dataclass(frozen=True)
class MonitorConfig:
    """How the monitor looks: every so many updates, at so many samples."""

    every: int = 10
    samples: int = 128
    rule: StopRule = field(default_factory=StopRule)


@dataclass(frozen=True)
class Beside:
    """Options of objectives that are not their config's own, see `recipes.beside`."""

    draws: int = 6
    coupled: bool = False
    value: bool = True


class PolicyAligner(Aligner):
    """Keeps the policy alone, so that its checkpoints load as those of any other."""

    def model(self) -> dict[str, Tensor]:
        """Return the weights of the policy."""
        return self.model_to_align.roles.model()


def main(cfg: DictConfig) -> None:
    """Align what `cfg` describes in the folder `cfg.run`, and say what came of it."""
    for name in ("checkpoint_every", "log_every"):
        if not isinstance(cfg[name], int) or cfg[name] < 1:
            raise ConfigError(f"{name}={cfg[name]} must be at least 1 update")
    if not isinstance(cfg.seed, int):
        raise ConfigError(f"seed={cfg.seed} must be a whole number")
    if not isinstance(cfg.anchor, int | float) or not 0.0 <= cfg.anchor < math.inf:
        raise ConfigError(f"anchor={cfg.anchor} must be a weight of 0 or more")
    run = Path(cfg.run)
    with ExitStack() as opened:
        with refused():
            subject = load_subject(cfg, compute_device(cfg))
            opened.callback(subject.close)
            aligner = make_aligner(cfg, subject)
            judge = subject.judge or make_monitor(cfg, subject, aligner)
        checkpoint = training.run(
            aligner,
            run,
            stored_config(cfg, subject),
            checkpoint_every=cfg.checkpoint_every,
            log_every=cfg.log_every,
            progress=cfg.progress,
            judge=judge,
        )
    best = training.best_checkpoint(run)
    if best != run:
        take(aligner, best)
    base = subject.judge(subject.base).score if subject.judge and subject.base else None
    lines = [*summary(run, base), f"checkpoint: {checkpoint if best == run else best}"]
    if isinstance(judge, Monitor):
        lines.append(f"report:     {write_report(run)}")
    lines += frozen_kept(aligner) if aligner.terms[0].objective.needs.frozen else subject.keep(run)
    Console(soft_wrap=True, highlight=False).print("\n".join(lines))


def make_aligner(cfg: DictConfig, subject: Subject) -> Aligner:
    """Return the trainer of the configured objective, beside it the anchor to demonstrations if it has a weight."""
    name, online = str(cfg.objective.name), build(OnlineConfig, cfg.online, "online")
    # One rule for what makes steps and what scores them.
    floor = max(online.rule.minimum_std, subject.minimum_std)
    online = replace(online, rule=replace(online.rule, minimum_std=floor))
    objective = build_objective(name, subject.model, subject.reward, online.rule, objective_options(cfg))
    held = [anchor(cfg, subject, online)] if cfg.anchor else []
    needs, data = objective.needs, subject.data
    if data is None and subject.demonstrations and not (needs.rewards or needs.pairs or needs.prompts):
        data = subject.demonstrations()
    if data is not None and not cfg.anchor:
        experience = build_experience(subject.model, subject.reward, objective, online, data)
    else:
        experience = subject.own_samples(objective, online)
    terms = [Term(objective, experience), *held]
    config = replace(build(AlignConfig, cfg.align, "align"), seed=cfg.seed)
    # A policy stays one of its own method, which is what loads it.
    manifest = {"method": "align", "version": diffpolicy.__version__} | (subject.manifest or {})
    manifest["alignment"] = {"model": str(cfg.model), "objective": name, "reward": str(cfg.reward.name)}
    kind = PolicyAligner if subject.config is not None else Aligner
    return kind(subject.model, terms, config, manifest)


def anchor(cfg: DictConfig, subject: Subject, online: OnlineConfig) -> Term:
    """Return supervised fine-tuning on demonstrations, as a second term of weight `cfg.anchor`."""
    if cfg.objective.name == "sft":
        raise ConfigError("objective=sft is the anchor itself: leave anchor out")
    data = subject.data
    if data is None and subject.demonstrations is not None:
        data = subject.demonstrations()
    if not isinstance(data, Rollout):
        raise ConfigError(
            f"anchor={cfg.anchor} is the weight of demonstrations: give them as data=FILE, with 'clean' in it"
        )
    sft = build_objective("sft", subject.model)
    return Term(sft, build_experience(subject.model, None, sft, online, data), cfg.anchor)


def objective_options(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of `cfg.objective`, of the types that its dataclass wants."""
    given: Any = OmegaConf.to_container(cfg.objective, resolve=True)
    name = str(given.pop("name"))
    others = {option: given.pop(option) for option in beside(name) if option in given}
    kind = config_of(name)
    own = given if kind is None else vars(build(kind, given, "objective"))
    checked = build(Beside, others, "objective")
    return {**own, **{option: getattr(checked, option) for option in others}}


def make_monitor(cfg: DictConfig, subject: Subject, aligner: Aligner) -> Monitor | None:
    """Return the judge that looks at samples while the run goes on; None without one, or without a reward."""
    if cfg.monitor is None or subject.reward is None:
        return None
    config = build(MonitorConfig, cfg.monitor, "monitor")
    return Monitor(
        subject.model,
        subject.reward,
        every=config.every,
        gold=subject.gold,
        real=subject.real,
        samples=config.samples,
        rule=config.rule,
        start=aligner.terms[0].objective.start,
        at_once=build(OnlineConfig, cfg.online, "online").at_once,
    )


def stored_config(cfg: DictConfig, subject: Subject) -> dict[str, Any]:
    """Return what checkpoints keep: what was learnt from, and of a policy its own configuration; no secrets.

    How patiently a server is asked is not learnt from: who finds it too slow goes on with a longer timeout. Files are
    kept by their hashes, so that a run does not go on with others of the same name.
    """
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    for reward in (given["reward"], given["gold"]):
        for name in ("token", "timeout", "retries", "backoff"):
            reward.pop(name, None)
    kept = {name: value for name, value in given.items() if name not in NOT_LEARNT_FROM}
    files = {name: Path(cfg[name]).expanduser() for name in FILES if isinstance(cfg[name], str)}
    if files and not began_without_hashes(Path(cfg.run), subject):
        kept["sha256"] = {name: sha256(file) for name, file in files.items()}
    return kept if subject.config is None else {**subject.config, "align": kept}


def began_without_hashes(run: Path, subject: Subject) -> bool:
    """Return whether a run folder holds a run from before the hashes of files were kept."""
    last = training.latest_checkpoint(run)
    if last is None:
        return False
    config = training.read_checkpoint(last).config
    return "sha256" not in (config if subject.config is None else config.get("align", {}))


def frozen_kept(aligner: Aligner) -> list[str]:
    """Return where to find what an objective learnt that left the denoiser as it is."""
    modules = ", ".join(f"owned.0.{name}.*" for name in aligner.terms[0].objective.owned)
    return [f"learnt:     {modules} in the checkpoint's model.safetensors; the denoiser is as it was"]


def take(aligner: Aligner, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the role that is trained, for what is kept beside the checkpoints."""
    stored, roles = training.read_checkpoint(checkpoint).model, aligner.model_to_align.roles
    with torch.no_grad():
        for name, tensor in roles.model().items():
            tensor.copy_(stored[name])


@contextmanager
def refused() -> Iterator[None]:
    """Say what options refuse to be as what it is: a mistake in the command."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) in (ValueError, TypeError, DiffusionError, NetworkError, RecipeError):
            raise ConfigError(str(error)) from error
        raise
