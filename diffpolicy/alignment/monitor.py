"""The monitor: looks at samples of a run while it goes on, and stops it when its reward is being exploited."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.measures import (
    diversity,
    manifold_distance,
    reference_distance,
    require_finite,
)
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import StartPolicy
from diffpolicy.alignment.pictures import are_images, before_after, encode
from diffpolicy.alignment.reward import Reward, rate
from diffpolicy.alignment.roles import REFERENCE, TRAIN
from diffpolicy.alignment.samples import Prompted, chunks, rows, select
from diffpolicy.alignment.stopping import Look, StopRule, read_looks
from diffpolicy.diffusion import Sampler, Solver
from diffpolicy.training.errors import CheckpointError
from diffpolicy.training.judging import Verdict

PER_PROMPT = 8  # samples of each prompt, between which diversity is measured
SHOWN = 16  # samples in the picture
DRAWS = 4  # of level and noise for each sample, in the distance to the reference
OUTSIDE = 1e30  # subtracted from the scores of checkpoints that left the manifold; above any reward
PICTURE, FACTS = "samples.png", "monitor.json"


class Seen(NamedTuple):
    """Samples as they come from the sampler and as rewards see them (N, ...), and the mean measures of them."""

    clean: Tensor
    decoded: Tensor
    proxy: float
    gold: float | None
    gold_deviation: float
    manifold: float | None
    diversity: float


class Monitor:
    """A judge for `training.run`: samples with "train" from fixed noise and prompts, and compares with the base.

    Both answer the same prompts from the same noise, so that looks differ only in the weights. `gold` is a reward that
    is not trained on; `real` (M, *S) are samples of the data, as rewards see them. What is not given is not measured;
    without either, exploitation can hide. Samples are `at_once` in one call of the denoiser; `start` is what the
    objective's samples start from. All randomness is the monitor's own: a run learns the same with and without it.

    A checkpoint's score is its gold, or its reward without one; those beyond the rule's warning lie below all others,
    the less far the better. The run folder gets a picture and the base's measures, for the report. Ratings of the
    monitor are not among the run's reward calls.

    Raises:
        ValueError: if there are fewer than 2 samples, or `every` is not positive.
    """

    def __init__(
        self,
        model: Model,
        reward: Reward,
        *,
        every: int,
        gold: Reward | None = None,
        real: Tensor | None = None,
        samples: int = 64,
        rule: StopRule | None = None,
        solver: Solver = "ddim",
        start: StartPolicy | None = None,
        at_once: int | None = None,
        seed: int = 0,
    ) -> None:
        if samples < 2 or every < 1:
            raise ValueError(f"a monitor needs 2 samples or more and every >= 1, got {samples} and {every}")
        self.model, self.reward, self.gold, self.real = model, reward, gold, real
        self.every, self.rule, self.start, self.at_once = every, rule or StopRule(), start, at_once
        self.settings = {"samples": samples, "solver": solver, "seed": seed}
        self._sampler = Sampler(model.process, solver, model.levels)
        self._seed = seed
        draw = self._generator()
        groups = min(len(model.prompts), max(1, samples // PER_PROMPT))
        chosen = torch.randperm(len(model.prompts), generator=draw, device=draw.device)[:groups]
        self._group = torch.arange(samples, device=draw.device) * groups // samples
        self._prompts = chosen[self._group]
        self._noise = self._sampler.draw((samples, *model.shape), draw)
        self._base: Seen | None = None
        self._looks: list[Look] = []
        self._folder: Path | None = None

    @property
    def looks(self) -> tuple[Look, ...]:
        """What was seen so far, oldest first."""
        return tuple(self._looks)

    def __call__(self, checkpoint: Path) -> Verdict:
        """Return the verdict on the model as it is now, which is the checkpoint at this path.

        Raises:
            FeedbackError: if samples cannot be rated, or are no longer finite.
            CheckpointError: if the picture cannot be written.
        """
        folder, step = checkpoint.parents[1], int(checkpoint.name.rpartition("-")[2])
        if folder != self._folder:  # a run that began in another process is gone on with
            self._folder, self._looks = folder, read_looks(folder)
        self._looks = [look for look in self._looks if look.step < step]
        remembered = self.reward.state()
        try:
            self._base = self._base or self._see(REFERENCE)
            seen, base = self._see(TRAIN), self._base
        finally:
            self.reward.load_state(remembered)  # what it remembers is of samples trained on
        look = self._look(step, seen, base)
        self._looks.append(look)
        self._write(folder, FACTS, json.dumps(self._facts(base), indent=1).encode())
        stop = self.rule.reason([base_look(base), *self._looks], base.gold_deviation)
        return Verdict(self._score(look), look.values(), self._picture(folder, seen, base), stop)

    @torch.no_grad()
    def _see(self, name: str) -> Seen:
        """Return what a role makes of the monitor's noise."""
        prompts, noise = self._prompts, self._noise
        condition = self.model.prompts.condition(prompts, guided=True)
        if name == TRAIN and self.start is not None:
            noise = torch.cat([self.start(noise[0], condition, prompts)[None], noise[1:]])
        asked = Prompted(condition, list(self.model.prompts.labels(prompts)), noise)
        made = []
        for index in chunks(len(prompts), self.at_once):
            part = select(asked, index)
            clean = self._sampler.sample(self.model.roles[name], part.condition, part.noise)
            require_finite(clean)  # rewards may fail on others as they like
            decoded = self.model.decode(clean)
            golden = decoded.new_zeros(len(clean))
            if self.gold is not None:
                golden = rate(self.gold, decoded, part.labels).total
            made.append((clean, decoded, rate(self.reward, decoded, part.labels).total, golden))
        clean, decoded, proxy, golden = (torch.cat(each) for each in zip(*made, strict=True))
        return Seen(
            clean,
            decoded,
            proxy.double().mean().item(),
            None if self.gold is None else golden.double().mean().item(),
            golden.double().std(correction=0).item(),
            None if self.real is None else manifold_distance(decoded, self.real),
            diversity(decoded, self._group),
        )

    def _look(self, step: int, seen: Seen, base: Seen) -> Look:
        return rounded(
            Look(
                step,
                seen.proxy,
                seen.gold,
                self._reference_distance(seen.clean),
                _ratio(seen.manifold, base.manifold),
                _ratio(seen.diversity, base.diversity),
            )
        )

    def _reference_distance(self, clean: Tensor) -> float:
        """Return the mean squared difference of predictions on own samples, at the sampler's levels."""
        matcher = Matcher(self.model.process, self.model.levels, DRAWS)
        condition = self.model.prompts.condition(self._prompts, guided=False)
        draw, total = self._generator(), 0.0
        for index in chunks(len(clean), self.at_once):
            part, given = rows(clean, index), rows(condition, index)
            total += len(index) * reference_distance(matcher, self.model.roles, part, given, draw)
        return total / len(clean)

    def _score(self, look: Look) -> float:
        value, excess = look.proxy if look.gold is None else look.gold, self.rule.excess(look)
        return value if excess <= 1.0 else -OUTSIDE * excess

    def _picture(self, folder: Path, seen: Seen, base: Seen) -> bytes | None:
        """Write the base's and the present samples side by side; return a GIF, or None if they are no images."""
        if not are_images(seen.decoded):
            return None
        shown = torch.arange(0, len(seen.decoded), -(-len(seen.decoded) // SHOWN))  # of every prompt some
        picture = before_after(rows(base.decoded, shown), rows(seen.decoded, shown))
        self._write(folder, PICTURE, encode(picture, "PNG"))
        return encode(picture, "GIF")

    def _facts(self, base: Seen) -> dict[str, Any]:
        measures = {name: getattr(base, name) for name in ("proxy", "gold", "manifold", "diversity")}
        return {
            "base": measures,
            "rule": asdict(self.rule),
            "samples": len(self._group),
            "prompts": int(self._group[-1]) + 1,
            "real": 0 if self.real is None else len(self.real),
        }

    def _write(self, folder: Path, name: str, content: bytes) -> None:
        try:
            (folder / f".{name}").write_bytes(content)
            (folder / f".{name}").replace(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {folder / name}: {error.strerror or error}. Free some space, then run the same command "
                "again to resume."
            ) from error

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.model.device).manual_seed(self._seed)


def base_look(base: Seen) -> Look:
    """Return the look at the base, before the first update."""
    manifold = None if base.manifold is None else 1.0
    return rounded(Look(0, base.proxy, base.gold, 0.0, manifold, 1.0))


def rounded(look: Look) -> Look:
    """Return a look in single precision, which is what curves keep: a resumed run must not decide otherwise."""
    return Look(
        look.step,
        *(None if value is None else torch.tensor(value).item() for value in look[1:]),  # type: ignore[arg-type]
    )


def _ratio(value: float | None, base: float | None) -> float | None:
    """Return value over base; None where the base's is zero, which nothing can be compared with."""
    return None if value is None or not base else value / base
