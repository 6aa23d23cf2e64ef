"""Where the trainer's batches come from: roll-outs that are rated, comparisons, demonstrations, prompts."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from diffpolicy.alignment.advantages import (
    Advantages,
    PromptBuffer,
    group_advantages,
    leave_one_out,
    softmax_weights,
)
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Logs, Objective, Roles, role
from diffpolicy.alignment.reward import Reward, Rewards, rate
from diffpolicy.alignment.samples import Pairs, Prompted, Rated, Rollout, Samples, chunks, rows, select, size
from diffpolicy.alignment.tree import tree_advantages
from diffpolicy.diffusion import (
    Path,
    Sampler,
    Solver,
    StepRule,
    Tree,
    join_trees,
    sample_path,
    sample_tree,
)
from diffpolicy.training.errors import FeedbackError

AdvantageKind = Literal["global", "group", "none", "leave_one_out", "buffer", "softmax"]
ADVANTAGE_KINDS: tuple[AdvantageKind, ...] = get_args(AdvantageKind)


class Gathered(NamedTuple):
    """A batch, what to log of it, and how many samples were rated for it."""

    batch: Samples
    logs: Logs
    calls: int = 0


class Experience(Protocol):
    """Where batches come from. Implementations inherit from this class."""

    @property
    def group_size(self) -> int | None:
        """How many samples a group has, for the trainer to check that none is missing; None where there are none."""
        return None

    @property
    def unit(self) -> int:
        """How many samples can only be learnt from together: those of a tree, which share steps."""
        return 1

    @property
    def units(self) -> int | None:
        """How many of those a batch has at most, one for each minibatch or more; None if nobody knows before."""
        return None

    def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
        """Return the batch of one iteration; all randomness is the generator's.

        Raises:
            FeedbackError: if it cannot be had now; the experience's own state is then as it was.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what is remembered from one batch to the next."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        return  # not abstract: most remember nothing


@dataclass(frozen=True)
class OnlineConfig:
    """A roll-out answers `groups` prompts `group_size` times each.

    With `shared_start` the samples of a group start from the same noise, so that only the steps tell them apart (D3PO,
    DanceGRPO). `advantages` is the deviation they are divided by, see `group_advantages`, or "leave_one_out", "buffer"
    (per prompt, DDPO) or "softmax" (weights at `temperature`, for RWR). `solver` takes samples whose path is not
    needed; `rule` is that of recorded paths. At most `at_once` samples are made in one call of the denoiser.

    With `splits` every group is a denoising tree from one start, which splits in `branches` at these steps, their
    noises independent by `noise_scale`, see `sample_tree`; every step then has an advantage of its own, see
    `tree_advantages`. The trainer's microbatches hold whole trees: what parts of one share would count in each of them.
    """

    groups: int = 8
    group_size: int = 16
    shared_start: bool = False
    advantages: AdvantageKind = "global"
    temperature: float = 1.0
    solver: Solver = "ddim"
    rule: StepRule = field(default_factory=lambda: StepRule("ddim"))
    at_once: int | None = None
    splits: tuple[int, ...] = ()
    branches: int = 2
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.groups < 1 or self.group_size < 2 or (self.at_once is not None and self.at_once < 1):
            raise ValueError(
                "a roll-out has one group or more, of two samples or more, and makes one or more at once, got "
                f"groups={self.groups}, group_size={self.group_size} and at_once={self.at_once}"
            )
        if self.advantages not in ADVANTAGE_KINDS:
            raise ValueError(f"advantages are one of {', '.join(ADVANTAGE_KINDS)}, not {self.advantages!r}")
        if not self.temperature > 0.0:
            raise ValueError(f"a roll-out's temperature of weights is positive, got {self.temperature}")
        if self.splits and self.group_size != self.branches ** len(self.splits):
            raise ValueError(
                f"a tree that splits {len(self.splits)} times in {self.branches} is a group of "
                f"{self.branches ** len(self.splits)} samples, got group_size={self.group_size}"
            )
        if self.splits and self.advantages != "global":
            raise ValueError(
                f"a tree has advantages of its own, leave them at 'global'; got {self.advantages!r}"
            )


class Online(Experience):
    """Samples of the model itself, rated by a reward: what an objective needs of them, and no more.

    Samples are made by "old" where the objective compares with it, otherwise by what is being trained. Pairs are the
    2i-th and the 2i+1-th sample of a group; ties are left out.
    """

    def __init__(
        self, model: Model, reward: Reward, objective: Objective[Any], config: OnlineConfig | None = None
    ) -> None:
        needs, config = objective.needs, config or OnlineConfig()
        if needs.differentiable_reward and not reward.differentiable:
            raise ValueError(
                f"this objective follows the reward's gradient, and {type(reward).__name__} has none: "
                "take a differentiable reward, or an objective that needs only its values"
            )
        self.model, self.reward, self.needs, self.config = model, reward, needs, config
        self._start, self._begin = objective.start, objective.begin
        self._sampler = Sampler(model.process, config.solver, model.levels)
        self._buffer = PromptBuffer()
        self._check(type(objective).__name__)

    @property
    def group_size(self) -> int:
        """How many samples answer a prompt."""
        return self.config.group_size

    @property
    def unit(self) -> int:
        """The samples of a tree; 1 without trees."""
        return self.config.group_size if self.config.splits else 1

    @property
    def units(self) -> int:
        """How many trees, pairs or samples a roll-out has."""
        together = 2 if self.needs.pairs else self.unit
        return self.config.groups * self.config.group_size // together

    def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
        """Return prompts, or rated samples or pairs of samples of them, as the objective needs."""
        config = self.config
        index = draw_prompts(len(self.model.prompts), config.groups, generator)
        index = index.repeat_interleave(config.group_size)
        if self.needs.prompts:
            noise = self._noise(index, generator)
            condition = self.model.prompts.condition(index, guided=True)
            prompted = Prompted(condition, list(self.model.prompts.labels(index)), noise)
            return Gathered(prompted, {}, len(index) * self.needs.ratings)
        rollout = self._roll_out(role(roles, "old" if self.needs.old else "train"), index, generator)
        with torch.no_grad():  # of the reward, too: it may have weights of its own
            seen = self.model.decode(rollout.clean)
            rewards = rate(self.reward, seen, self.model.prompts.labels(index))
        logs = reward_logs(rewards)
        if self.needs.pairs:
            pairs = paired(rollout, rewards.total)
            return Gathered(pairs, logs | {"ties": 1.0 - 2.0 * size(pairs) / len(index)}, len(index))
        advantages, flat = self._advantages(rewards.total, rollout, index)
        return Gathered(
            Rated(rollout, rewards.total, advantages),
            logs | {"flat_groups": flat / config.groups},
            len(index),
        )

    def state(self) -> dict[str, Any]:
        """Return the rewards remembered for each prompt, and what the reward itself remembers."""
        return {"buffer": self._buffer.state(), "reward": self.reward.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._buffer.load_state(state["buffer"])
        self.reward.load_state(state["reward"])

    @torch.no_grad()
    def _roll_out(self, denoiser: Any, index: Tensor, generator: torch.Generator) -> Rollout:
        """Return samples of the prompts `index` (B,), made `at_once` at a time."""
        model, config = self.model, self.config
        noise = self._noise(index, generator)
        condition = model.prompts.condition(index, guided=True)
        self._begin()
        if self._start is not None:
            noise[0] = self._start(noise[0], condition, index)
        start = model.process.noise_at(model.levels[0]) * noise[0]
        kept = condition if self.needs.guided else model.prompts.condition(index, guided=False)
        group = torch.arange(config.groups, device=start.device).repeat_interleave(config.group_size)
        if config.splits:
            tree = self._trees(denoiser, condition, start, generator)
            return Rollout(tree.clean, kept, group, start, tree, prompt=index)
        made: list[tuple[Tensor, Path | None]] = []
        for some in chunks(len(index), config.at_once):
            part = select(Prompted(condition, [None] * len(index), noise), some)
            if self.needs.path:
                path = sample_path(
                    model.process,
                    config.rule,
                    model.levels,
                    denoiser,
                    part.condition,
                    part.noise,
                    start[some],
                )
                made.append((path.clean, path))
            else:
                made.append((self._sampler.sample(denoiser, part.condition, part.noise), None))
        clean = torch.cat([clean for clean, _ in made])
        return Rollout(clean, kept, group, start, _joined([path for _, path in made]), prompt=index)

    def _trees(self, denoiser: Any, condition: Any, start: Tensor, generator: torch.Generator) -> Tree:
        """Return a tree from the first start of every group, as many at a time as have `at_once` leaves."""
        model, config = self.model, self.config
        first = torch.arange(0, len(start), config.group_size, device=start.device)
        at_once = None if config.at_once is None else max(config.at_once // config.group_size, 1)
        trees = []
        for some in chunks(config.groups, at_once):
            tree = sample_tree(
                model.process,
                config.rule,
                model.levels,
                denoiser,
                partial(_rows_of, condition, first[some]),
                start[first[some]],
                config.splits,
                generator,
                config.branches,
                config.noise_scale,
            )
            trees.append(tree)
        return join_trees(trees)

    def _check(self, learner: str) -> None:
        """Raise ValueError if roll-outs like these are not what the objective called `learner` can learn from."""
        needs, config = self.needs, self.config
        if not (needs.rewards or needs.pairs or needs.prompts):
            raise ValueError(
                f"{learner} learns from demonstrations, not from rated samples: give it `Fixed` data, or take RWR"
            )
        if needs.weights and config.advantages != "softmax":
            raise ValueError(
                f"{learner} takes weights of 0 or more as advantages, which {config.advantages!r} does not make: leave "
                "advantages at 'softmax'"
            )
        if config.splits and not (needs.path and needs.rewards):
            raise ValueError(
                "trees are for objectives that take recorded steps and rewards: leave splits empty"
            )
        if needs.pairs and config.group_size % 2:
            raise ValueError(f"pairs are made of groups of an even size, got group_size={config.group_size}")
        if config.shared_start and not (needs.path or needs.prompts) and self._sampler.draws == 1:
            raise ValueError(
                f"the solver {config.solver!r} adds no noise, so that samples from a shared start are all the same: "
                "leave shared_start out, or take the solver 'ddpm'"
            )

    def _noise(self, index: Tensor, generator: torch.Generator) -> Tensor:
        draws = 1 + len(self.model.levels) if self.needs.path else self._sampler.draws
        draws = 1 if self.config.splits else draws  # a tree draws that of its steps itself
        shape = (draws, len(index), *self.model.shape)
        noise = torch.empty(shape, device=self.model.device).normal_(generator=generator)
        if self.config.shared_start or self.config.splits:
            noise[0] = noise[0][:: self.config.group_size].repeat_interleave(self.config.group_size, dim=0)
        return noise

    def _advantages(self, rewards: Tensor, rollout: Rollout, prompt: Tensor) -> Advantages:
        group = rollout.group
        if isinstance(rollout.path, Tree):
            flat = group_advantages(rewards, group).flat_groups
            return Advantages(tree_advantages(rollout.path, rewards), flat)
        match self.config.advantages:
            case "leave_one_out":
                return Advantages(leave_one_out(rewards, group), 0)
            case "buffer":
                return self._buffer.advantages(rewards, prompt)
            case "softmax":
                return Advantages(softmax_weights(rewards, self.config.temperature, group), 0)
            case "global" | "group" | "none":
                return group_advantages(rewards, group, self.config.advantages)


class Fixed(Experience):
    """Minibatches of `count` from a fixed set of comparisons or demonstrations, drawn with replacement."""

    def __init__(self, data: Rollout | Pairs, count: int) -> None:
        if size(data) < 1 or count < 1:
            raise ValueError(f"minibatches of {count} cannot be drawn from {size(data)} samples")
        self.data, self.count = data, count

    @property
    def units(self) -> int:
        """The samples of a minibatch."""
        return self.count

    def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
        """Return a minibatch."""
        device = generator.device
        return Gathered(
            select(
                self.data, torch.randint(size(self.data), (self.count,), generator=generator, device=device)
            ),
            {},
        )


def draw_prompts(count: int, groups: int, generator: torch.Generator) -> Tensor:
    """Return `groups` indices of `count` prompts (groups,) int64, none of them again before all have been drawn."""
    rounds = -(-groups // count)
    shuffled = [torch.randperm(count, generator=generator, device=generator.device) for _ in range(rounds)]
    return torch.cat(shuffled)[:groups]


def paired(rollout: Rollout, rewards: Tensor) -> Pairs:
    """Return the 2i-th and 2i+1-th samples of a roll-out as pairs, the one with the higher reward the winner.

    Groups hold an even number of samples, one after the other. Ties are left out.

    Raises:
        FeedbackError: if the number of samples is odd.
    """
    if len(rewards) % 2 or not torch.equal(rollout.group[0::2], rollout.group[1::2]):
        raise FeedbackError("pairs are made of groups with an even number of samples")
    first, second = rewards[0::2], rewards[1::2]
    even = torch.arange(0, len(rewards), 2, device=rewards.device)
    apart = first != second
    won = torch.where(first > second, even, even + 1)[apart]
    lost = torch.where(first > second, even + 1, even)[apart]
    winner, loser = select(rollout, won), select(rollout, lost)
    return Pairs(winner.clean, loser.clean, winner.condition, winner.mask, winner.path, loser.path)


def reward_logs(rewards: Rewards) -> Logs:
    """Return what to log of rewards: mean and deviation, and the means of terms, cost and uncertainty."""
    logs = {"reward": rewards.total.mean().item(), "reward_std": rewards.total.std(correction=0).item()}
    logs |= {f"reward/{name}": values.float().mean().item() for name, values in rewards.terms.items()}
    for name, values in (("cost", rewards.cost), ("uncertainty", rewards.uncertainty)):
        if values is not None:
            logs[name] = values.float().mean().item()
    return logs


def _rows_of(condition: Any, first: Tensor, root: Tensor) -> Any:
    """Return the conditions of roots (N,), whose own are the rows `first` (P,)."""
    return rows(condition, first[root])


def _joined(paths: list[Path | None]) -> Path | None:
    """Return paths of some samples each as one."""
    known = [path for path in paths if path is not None]
    if not known:
        return None
    log_probs = [path.log_probs for path in known if path.log_probs is not None]
    return Path(
        torch.cat([path.states for path in known], dim=1),
        known[0].levels,
        torch.cat(log_probs, dim=1) if log_probs else None,
    )
