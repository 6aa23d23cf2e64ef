"""One run of the suite `align-digits`: a network, a method, a learning rate and a seed, and the curve that it makes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment import (
    AlignConfig,
    Aligner,
    Decay,
    Experience,
    Fixed,
    Matcher,
    Model,
    Objective,
    Online,
    OnlineConfig,
    Reward,
    Rollout,
    StartPolicy,
    Term,
    inner_levels,
)
from diffpolicy.alignment.digits import (
    LEVELS,
    DigitJudge,
    DigitLikelihood,
    Digits,
    DigitUtility,
    digits_model,
    load_digits,
    make_network,
    train_base,
)
from diffpolicy.alignment.objectives import SFT
from diffpolicy.alignment.recipes import build_objective, online_config
from diffpolicy.diffusion import Sampler, StepRule, trailing
from diffpolicy.training.errors import FeedbackError, NonFiniteError

STEPS = 10  # of the sampler that is evaluated, whatever roll-outs take, so that figures can be compared
EVALUATION_SEED, PAIRS_SEED = 7_000_001, 1_000_000
KEPT, COMPARED = (
    24,
    64,
)  # samples kept for the pictures; samples whose predictions are compared with the reference's


@dataclass(frozen=True)
class Problem:
    """The digits, their rewards and judge."""

    digits: Digits
    reward: DigitLikelihood
    judge: DigitJudge


@cache
def problem() -> Problem:
    """Return the problem of all runs, made once in each process."""
    digits = load_digits()
    reward = DigitLikelihood(digits)
    return Problem(digits, reward, DigitJudge.make(digits, reward))


def base_file(kind: str, options: Mapping[str, Any], path: Path) -> Path:
    """Train a base network where it is not kept at `path`; return the path."""
    if not path.exists():
        generator = torch.Generator().manual_seed(int(options["seed"]))
        network = make_network(kind, generator)  # type: ignore[arg-type]
        shape = digits_model(kind, network).shape  # type: ignore[arg-type]
        clean = problem().digits.train.reshape(-1, *shape)
        train_base(network, clean, generator, options["updates"], options["batch"], options["learning_rate"])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        torch.save(network.state_dict(), temporary)
        temporary.replace(path)
    return path


def play(spec: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return the curve of one run, described by plain values, see configs/suite/align-digits.yaml."""
    started = time.monotonic()
    torch.set_num_threads(1)
    run = Run(spec, base)
    return {**run.play(), "seconds": round(time.monotonic() - started, 1)}


def gradient_variance(spec: Mapping[str, Any], base: str) -> dict[str, float]:
    """Return the summed variance of the gradients of DRaFT-1 and DRaFT-LV, each of as many roll-outs of the base."""
    torch.set_num_threads(1)
    found = {}
    for name in ("draft_k", "draft_lv"):
        model = load_base(spec, base)
        objective = build_objective(name, model, problem().reward)
        config = OnlineConfig(groups=1, group_size=int(spec["roll_outs"]))
        experience, generator = (
            Online(model, problem().reward, objective, config),
            torch.Generator().manual_seed(0),
        )
        gradients = []
        for _ in range(int(spec["repeats"])):
            batch = experience.gather(model.roles, generator).batch
            loss, _ = objective.loss(batch, model.roles, generator)
            each_ = torch.autograd.grad(loss, model.roles.parameters())
            gradients.append(torch.cat([each.flatten() for each in each_]))
        found[name] = float(torch.stack(gradients).var(dim=0).sum())
    return found


class Run:
    """A run that is ready to begin."""

    def __init__(self, spec: Mapping[str, Any], base: str) -> None:
        self.spec = spec
        self.model = load_base(spec, base)
        rate = float(spec["learning_rate"])
        options = dict(spec["options"])
        if spec["rate_option"] is not None:  # of an objective that trains a module of its own and no network
            options[spec["rate_option"]] = rate
        rule = StepRule(spec["rule"]) if spec["rule"] is not None else None
        self.objective = build_objective(spec["objective"], self.model, problem().reward, rule, options)
        self.experience = self._experience(rule)
        align: dict[str, Any] = {
            name: Decay(**value) if name in ("old", "ema") else value for name, value in spec["align"].items()
        }
        config = AlignConfig(
            iterations=int(spec["iterations"]), learning_rate=rate, seed=int(spec["seed"]), **align
        )
        terms = [Term(self.objective, self.experience)]
        if spec["anchor"]:
            terms.append(self._anchor(float(spec["anchor"])))
        self.aligner = Aligner(self.model, terms, config)
        self.evaluator = Evaluator(self.model, self.objective.start, int(spec["samples"]))

    def play(self) -> dict[str, Any]:
        """Go on until the target is reached, the budget is spent or the samples are no pictures any more."""
        spec, limits = self.spec, self.spec["stop"]
        before = self.model.roles.checksum("train")
        curve = [self._point()]
        end, per_iteration = "budget", self.aligner.config.updates
        for iteration in range(1, self.aligner.config.iterations + 1):
            try:
                for update in range(per_iteration):
                    self.aligner.update((iteration - 1) * per_iteration + update)
            except (NonFiniteError, FeedbackError) as error:
                end = f"diverged: {error}"
                break
            if iteration % spec["every"] and iteration < self.aligner.config.iterations:
                continue
            point = self._point()
            if point is None:
                end = "diverged: samples are not finite"
                break
            curve.append(point)
            if (
                limits is not None
                and point["gold"] >= limits["gold"]
                and self._near(point, limits["manifold"])
            ):
                end = "target"
                break
            if limits is not None and not self._near(point, limits["lost"]):
                end = "left the manifold"
                break
        return {
            "curve": curve,
            "end": end,
            "network_unchanged": self.model.roles.checksum("train") == before,
            "pictures": self.evaluator.pictures,
        }

    def _anchor(self, weight: float) -> Term:
        """Return the base's training loss, on its own pictures of all classes, as a second term."""
        clean = problem().digits.train.reshape(-1, *self.model.shape)
        data = Rollout(clean, None, torch.arange(len(clean)))
        count = self.spec["online"]["groups"] * self.spec["online"]["group_size"]
        matcher = Matcher(self.model.process, inner_levels(trailing(LEVELS, STEPS)))
        return Term(SFT(matcher), Fixed(data, count), weight)

    def _point(self) -> dict[str, float] | None:
        found = self.evaluator.evaluate()
        return None if found is None else {"calls": float(self.aligner.calls), **found}

    def _near(self, point: Mapping[str, float], factor: float) -> bool:
        return bool(point["manifold"] <= factor * self.evaluator.base["manifold"])

    def _experience(self, rule: StepRule | None) -> Experience:
        online = {**self.spec["online"], **({} if rule is None else {"rule": rule})}
        config = online_config(self.spec["objective"], **online)
        count = config.groups * config.group_size
        match self.spec["data"]:
            case "online":
                return Online(self.model, problem().reward, self.objective, config)
            case "demonstrations":
                return Fixed(demonstrations(self.model), count)
            case "pairs":
                return Fixed(labelled_pairs(self.model, self.objective, online, self.spec), count)
            case other:
                raise ValueError(f"a run learns from online, demonstrations or pairs, not from {other!r}")


def load_base(spec: Mapping[str, Any], base: str) -> Model:
    """Return the base network of a run as a model."""
    network = make_network(spec["network"], torch.Generator().manual_seed(0))
    network.load_state_dict(torch.load(base, weights_only=True))
    return digits_model(spec["network"], network, int(spec["steps"]))


def demonstrations(model: Model) -> Rollout:
    """Return the training digits of the wanted class."""
    digits, wanted = problem().digits, problem().reward.wanted
    clean = digits.train[digits.train_class == wanted].reshape(-1, *model.shape)
    return Rollout(clean, None, torch.arange(len(clean)))


def labelled_pairs(
    model: Model, objective: Objective[Any], online: Mapping[str, Any], spec: Mapping[str, Any]
) -> Any:
    """Return comparisons of the base's own samples, labelled by the judge's decision value, ties left out."""
    config = online_config(spec["objective"], **{**online, "groups": int(spec["pairs"]), "group_size": 2})
    reward: Reward = DigitUtility(problem().judge)
    generator = torch.Generator().manual_seed(PAIRS_SEED + int(spec["seed"]))
    return Online(model, reward, objective, config).gather(model.roles, generator).batch


class Evaluator:
    """Measures fresh samples of the denoiser in training, made from the same noise each time by ten plain steps."""

    def __init__(self, model: Model, start: StartPolicy | None, samples: int) -> None:
        self.model, self._start = model, start
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        self._noise = torch.randn(1, samples, *model.shape, generator=generator)
        levels = trailing(LEVELS, STEPS)
        self._sampler = Sampler(model.process, "ddim", levels)
        self._matcher = Matcher(model.process, inner_levels(levels), draws=4)
        images = model.decode(self._sample("reference"))
        self._base_utility = problem().judge.utility(images)
        self.base = problem().judge.measure(images)._asdict()
        self.pictures: list[list[int]] = []

    @torch.no_grad()
    def evaluate(self) -> dict[str, float] | None:
        """Return the measures, the win rate against the base and the distance to it; None if a sample is not finite."""
        noise = self._noise
        if self._start is not None:
            index = torch.zeros(noise.shape[1], dtype=torch.int64)
            noise = self._start(noise[0], None, index)[None]
        clean = self._sample("train", noise)
        if not torch.isfinite(clean).all():
            return None
        images = self.model.decode(clean)
        utility = problem().judge.utility(images)
        wins = (utility[:, None] > self._base_utility).float() + 0.5 * (
            utility[:, None] == self._base_utility
        )
        shown = (16.0 * images[:KEPT].flatten(1)).round().clamp(0, 16).int()
        self.pictures = shown.tolist()
        measures = problem().judge.measure(images)._asdict()
        values = {**measures, "win": float(wins.mean()), "distance": self._distance(clean[:COMPARED])}
        return {name: round(value, 5) for name, value in values.items()}

    @torch.no_grad()
    def _sample(self, name: str, noise: Tensor | None = None) -> Tensor:
        return self._sampler.sample(self.model.roles[name], None, self._noise if noise is None else noise)

    def _distance(self, clean: Tensor) -> float:
        """Return the mean squared distance of predictions to the reference's, on samples (B, *S)."""
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        found = [
            each.distance(
                each.constant(self.model.roles["train"]), each.constant(self.model.roles["reference"])
            )
            for each in self._matcher.matchings(clean, None, generator)
        ]
        return float(torch.stack(found).mean())
