"""The trainer of all alignment: roll-out, feedback, objective, roles; a learner for `training.run`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffpolicy.alignment.advantages import check_complete
from diffpolicy.alignment.experience import Experience, Gathered
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Logs, Needs, Objective, mean_logs
from diffpolicy.alignment.packing import pack, unpack
from diffpolicy.alignment.roles import EMA, OLD, REFERENCE
from diffpolicy.alignment.samples import Rated, Samples, chunks, select, size, split
from diffpolicy.training.errors import FeedbackError, NonFiniteError, TrainingError
from diffpolicy.training.loop import Learner


@dataclass(frozen=True)
class Decay:
    """How much of a role is kept after iteration i: `min(slope (i - delay), maximum)`, and 0 before.

    DiffusionNFT keeps (.001, .5) of "old", AWM (.001, .3) of "ema"; 0 copies.
    """

    slope: float = 0.001
    maximum: float = 0.5
    delay: int = 0

    def __post_init__(self) -> None:
        if self.slope < 0.0 or not 0.0 <= self.maximum <= 1.0 or self.delay < 0:
            raise ValueError(f"a decay has slope and delay >= 0 and a maximum between 0 and 1, got {self}")

    def at(self, iteration: int) -> float:
        """Return what is kept after iteration `iteration`, counted from 1."""
        return min(self.slope * max(iteration - self.delay, 0), self.maximum)


@dataclass(frozen=True)
class AlignConfig:
    """Every iteration gathers a batch and makes `updates` optimiser updates of it, a minibatch each.

    A minibatch is backpropagated `microbatch` samples at a time, or whole; trees are never cut. Updates are AdamW's,
    after the gradient's norm is cut at `gradient_clip`. `old` and `ema` move after every iteration.
    """

    iterations: int = 100
    updates: int = 2
    microbatch: int | None = None
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    old: Decay = Decay(0.001, 0.5)
    ema: Decay = Decay(0.001, 0.3)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.updates < 1 or (self.microbatch is not None and self.microbatch < 1):
            raise ValueError(
                "alignment has one or more iterations, updates and samples in a microbatch, got "
                f"{self.iterations}, {self.updates} and {self.microbatch}"
            )
        if not (self.learning_rate > 0.0 and self.gradient_clip > 0.0 and self.weight_decay >= 0.0):
            raise ValueError(
                "alignment has a positive learning rate and gradient clip and a weight decay >= 0, got "
                f"{self.learning_rate}, {self.gradient_clip} and {self.weight_decay}"
            )


class Term(NamedTuple):
    """An objective, where its batches come from, and what its loss counts beside that of other terms."""

    objective: Objective[Any]
    experience: Experience
    weight: float = 1.0


class _Place(NamedTuple):
    """Where an update begins, to go back to."""

    generator: Tensor
    experience: list[dict[str, Any]]
    waiting: list[list[Samples]]
    gathered: Logs
    calls: int


class Aligner(Learner):
    """Trains the "train" role of a model on the sum of `terms`: usually one, and perhaps an anchor to demonstrations.

    Before the first update the batch is checked: complete groups, finite advantages, and whatever the objective itself
    can check (a likelihood ratio of 1). The reference is checked to be what it was at every checkpoint. Of values that
    several terms log under one name the first term's is kept.

    Raises:
        ValueError: if a batch cannot be cut into that many minibatches, microbatches would cut trees, or one term
            leaves the denoiser as it is and another would train it.
    """

    def __init__(
        self,
        model: Model,
        terms: Sequence[Term],
        config: AlignConfig,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        _check_cuts(terms, config)
        _check_frozen(terms)
        self.model_to_align, self.terms, self.config = model, tuple(terms), config
        self.total_steps = config.iterations * config.updates
        self.calls = 0
        self._manifest = dict(manifest or {})
        self._generator = torch.Generator(model.device).manual_seed(config.seed)
        self._needs = [term.objective.needs for term in terms]
        for name in (OLD, EMA):
            if any(getattr(needs, name) for needs in self._needs) and name not in model.roles:
                model.roles.add(name)
        self._owned = {
            f"{index}.{name}": owned
            for index, term in enumerate(terms)
            for name, owned in term.objective.owned.items()
        }
        self._optimizer = self._make_optimizer(self._needs)
        self._reference = model.roles.checksum(REFERENCE)
        self._waiting: list[
            list[Samples]
        ] = []  # by term, the minibatches of this iteration not learnt from yet
        self._gathered: Logs = {}

    def update(self, step: int) -> dict[str, Tensor]:
        """Gather a batch if none is left, and learn from a minibatch of it.

        Raises:
            FeedbackError: if no batch, or no reward of it, could be had; nothing has changed then.
            NonFiniteError: if a gradient is not finite; no weight has changed then.
        """
        before = self._place()
        try:
            if step % self.config.updates == 0:
                self._gather()
            logs = dict(self._gathered)
            batches = [waiting.pop(0) for waiting in self._waiting if waiting]
            if len(batches) == len(self.terms):
                logs |= self._learn(batches, step)
        except FeedbackError:
            self._return_to(before)
            raise
        if (step + 1) % self.config.updates == 0:
            self._move_roles((step + 1) // self.config.updates)
        return {name: torch.tensor(value) for name, value in logs.items()}

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on bit for bit, minibatches not yet learnt from included."""
        self.check_reference()
        return {
            "roles": self.model_to_align.roles.state(),
            "owned": {name: dict(owned.module.state_dict()) for name, owned in self._owned.items()},
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "experience": [term.experience.state() for term in self.terms],
            "waiting": [[pack(batch) for batch in waiting] for waiting in self._waiting],
            "gathered": self._gathered,
            "calls": self.calls,
            "reference": self._reference,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if state["reference"] != self._reference:
            raise TrainingError(
                "the run was begun from another reference than the one given now: give the same model, or begin a "
                "new run"
            )
        self.model_to_align.roles.load_state(state["roles"])
        for name, owned in self._owned.items():
            owned.module.load_state_dict(state["owned"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        for term, stored in zip(self.terms, state["experience"], strict=True):
            term.experience.load_state(stored)
        device = self.model_to_align.device
        self._waiting = [[unpack(batch, device) for batch in waiting] for waiting in state["waiting"]]
        self._gathered, self.calls = dict(state["gathered"]), int(state["calls"])

    def model(self) -> dict[str, Tensor]:
        """Return the weights that were trained."""
        return self.model_to_align.roles.model() | {
            f"owned.{name}.{key}": tensor
            for name, owned in self._owned.items()
            for key, tensor in owned.module.state_dict().items()
        }

    def manifest(self) -> dict[str, Any]:
        """Return what belongs to the weights, as JSON."""
        return self._manifest

    def check_reference(self) -> None:
        """Raise TrainingError if the reference is no longer what it was at the beginning."""
        if self.model_to_align.roles.checksum(REFERENCE) != self._reference:
            raise TrainingError(
                "the reference has moved since the run began, so that every distance to it is wrong: something "
                "outside the trainer changes the base's weights"
            )

    def _place(self) -> _Place:
        return _Place(
            self._generator.get_state(),
            [term.experience.state() for term in self.terms],
            [list(waiting) for waiting in self._waiting],
            self._gathered,
            self.calls,
        )

    def _return_to(self, place: _Place) -> None:
        """Undo what an update did before it learnt anything: a reward can fail in the middle of a loss, too."""
        self._generator.set_state(place.generator)
        for term, stored in zip(self.terms, place.experience, strict=True):
            term.experience.load_state(stored)
        self._waiting, self._gathered, self.calls = place.waiting, place.gathered, place.calls

    def _gather(self) -> None:
        first = not self._optimizer.state  # nothing has been learnt yet: a first batch may have been all ties
        gathered = [term.experience.gather(self.model_to_align.roles, self._generator) for term in self.terms]
        for term, found in zip(self.terms, gathered, strict=True):
            _check(term, found)
            if first and size(found.batch):
                term.objective.check(found.batch, self.model_to_align.roles)
        self.calls += sum(found.calls for found in gathered)
        self._waiting = [
            list(split(found.batch, min(self.config.updates, size(found.batch)), self._generator))
            if size(found.batch)
            else []
            for found in gathered
        ]
        self._gathered = {"reward_calls": float(self.calls)} | _main_first([found.logs for found in gathered])

    def _learn(self, batches: list[Samples], step: int) -> Logs:
        self._optimizer.zero_grad(set_to_none=True)
        loss, logs = 0.0, list[Logs]()
        for term, batch in zip(self.terms, batches, strict=True):
            own: list[Logs] = []
            for micro in chunks(size(batch), self.config.microbatch):
                share = term.weight * len(micro) / size(batch)
                piece = batch if len(micro) == size(batch) else select(batch, micro)
                for part in term.objective.parts(piece, self.model_to_align.roles, self._generator):
                    (share * part.loss).backward()  # type: ignore[no-untyped-call]
                    loss += share * part.loss.item()
                    own.append(part.logs)
            logs.append(mean_logs(own))
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip))
        if norm != norm or norm in (float("inf"), float("-inf")):
            raise NonFiniteError(
                f"the gradient of update {step + 1} has the norm {norm}; no weight was changed by it. Lower the "
                "learning rate, or look at the rewards of this iteration"
            )
        self._optimizer.step()
        return _main_first(logs) | {"loss": loss, "gradient_norm": norm}

    def _move_roles(self, iteration: int) -> None:
        for name, decay in ((OLD, self.config.old), (EMA, self.config.ema)):
            if any(getattr(needs, name) for needs in self._needs):
                self.model_to_align.roles.blend(name, decay.at(iteration))

    def _make_optimizer(self, needs: Sequence[Needs]) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = []
        if not all(each.frozen for each in needs):
            groups.append({"params": self.model_to_align.roles.parameters(), "lr": self.config.learning_rate})
        groups += [
            {"params": list(owned.module.parameters()), "lr": owned.learning_rate, "weight_decay": 0.0}
            for owned in self._owned.values()
        ]
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)


def _main_first(logs: Sequence[Logs]) -> Logs:
    """Return the logs of all terms as one; of equal names, the first term's."""
    return {name: value for each in reversed(logs) for name, value in each.items()}


def _check_cuts(terms: Sequence[Term], config: AlignConfig) -> None:
    for term in terms:
        unit, units = term.experience.unit, term.experience.units
        if config.microbatch is not None and config.microbatch % unit:
            raise ValueError(
                f"samples of a tree share steps, which would count again in every part of it: make microbatch, "
                f"{config.microbatch}, a multiple of {unit}, the samples of a tree"
            )
        if units is not None and config.updates > units:
            kind = "trees" if unit > 1 else "samples"
            raise ValueError(
                f"a batch of {units} {kind} cannot be cut into {config.updates} minibatches: make fewer updates, or "
                "larger roll-outs"
            )


def _check_frozen(terms: Sequence[Term]) -> None:
    kinds = {term.objective.needs.frozen: type(term.objective).__name__ for term in terms}
    if len(kinds) > 1:
        raise ValueError(
            f"{kinds[True]} leaves the denoiser as it is, and {kinds[False]} beside it, an anchor perhaps, would train "
            "it: leave one of them out"
        )


def _check(term: Term, found: Gathered) -> None:
    if isinstance(found.batch, Rated):
        if term.experience.group_size is not None:
            check_complete(found.batch.rollout.group, term.experience.group_size)
        if not torch.isfinite(found.batch.advantages).all():
            raise FeedbackError("the advantages of this roll-out are not finite numbers")
