"""World models of states: what an action does, with rewards, costs, termination and how unsure the model is of it."""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.diffusion import GaussianProcess, Sampler, edm
from diffpolicy.networks import StackedMLP
from world_models.config import DiffusionSteps, WorldModelConfig
from world_models.errors import WorldModelError
from world_models.two_hot import encode
from world_models.windows import Outcome, Window, Windows

STILL = 1e-6  # a column whose change deviates by less is copied
OUTLIER = 1.0  # errors beyond count by their size, not its square, in deviations of a step's change
SCREENED = 256  # transitions that say which columns may repeat others; all of them decide
MARGIN = 1.0  # how far imagined states may leave the data's box, in standard deviations


class Imagined(NamedTuple):
    """What a model expects of B actions: observations (B, O), rewards, costs, and probabilities of termination (B,).

    `uncertainty` (B,) is the deviation between members, averaged over the columns that change, in standard deviations
    of a step's change.
    """

    observations: Tensor
    rewards: Tensor
    costs: Tensor
    terminations: Tensor
    uncertainty: Tensor


class Expected(NamedTuple):
    """The same without the uncertainty, which takes all members to know."""

    observations: Tensor
    rewards: Tensor
    costs: Tensor
    terminations: Tensor


class StateWorldModel(nn.Module):
    """Members that predict the change of state, by diffusion or at once, and from it rewards, costs and termination.

    The change is normalised to unit deviation, and preconditioned as in EDM with sigma_data 1 (Karras et al. 2022,
    table 1). Rewards and costs that are only ever 0 or 1 are predicted as probabilities.
    """

    def __init__(
        self, config: WorldModelConfig, observation_size: int, action_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        beyond = [column for pair in config.relative for column in pair if column >= observation_size]
        if beyond:
            raise WorldModelError(
                f"world_model.relative names column {beyond[0]}, but observations have columns 0 to "
                f"{observation_size - 1}"
            )
        self.config, self.observation_size, self.action_size = config, observation_size, action_size
        shown = action_size * (config.two_hot_bins or 1)
        features = config.history * (observation_size + shown) + len(config.relative)
        noisy = observation_size + 1 if config.kind == "diffusion" else 0
        self.dynamics = StackedMLP(
            config.members, features + noisy, config.hidden, observation_size, generator, F.silu
        )
        self.heads = StackedMLP(
            config.members, features + observation_size, config.head_hidden, 3, generator, F.silu
        )
        for name in ("mean", "low", "high"):
            self.register_buffer(name, torch.zeros(observation_size))
        for name in ("std", "change"):
            self.register_buffer(name, torch.ones(observation_size))
        self.register_buffer("moving", torch.ones(observation_size))
        # The column whose present value each one takes in the next step: an earlier frame in the state. -1: none.
        self.register_buffer("source", torch.full((observation_size,), -1))
        # Rewards and costs: whether they are binary, and otherwise their mean and deviation.
        self.register_buffer("binary", torch.zeros(2))
        self.register_buffer("scale", torch.tensor([[0.0, 0.0], [1.0, 1.0]]))

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    change: Tensor
    moving: Tensor
    source: Tensor
    binary: Tensor
    scale: Tensor

    @property
    def members(self) -> int:
        """How many networks there are."""
        return self.config.members

    @property
    def learnt(self) -> Tensor:
        """The columns (O,) that take learning, as 0 and 1: they change, and not to what another one shows already."""
        return self.moving * (self.source < 0)

    def fit(self, windows: Windows) -> None:
        """Take means, deviations and ranges from the transitions of a dataset whose next observation is known.

        Raises:
            WorldModelError: if something in it is not finite, or no next observation is known.
        """
        if not len(windows.known):
            raise WorldModelError(
                "the data show no step: their episodes are of one transition, and what came of it was not kept"
            )
        now, outcome = windows.observations[windows.rows[windows.known]], windows.outcome(windows.known)
        seen = {"observations": windows.observations, "actions": windows.actions}
        for name, values in (seen | {"rewards": outcome.rewards, "costs": outcome.costs}).items():
            if not values.isfinite().all():
                raise WorldModelError(
                    f"{name} of the data hold NaN or infinity; `diffpolicy data check` says where"
                )
        change = (outcome.next_observations - now).double()
        spread = change.square().mean(0).sqrt().float()
        self.moving.copy_(spread > STILL)
        self.change.copy_(torch.where(spread > STILL, spread, 1.0))
        self.source.copy_(_sources(now, outcome.next_observations, self.moving > 0.0))
        self.mean.copy_(now.double().mean(0))
        std = now.double().std(0, correction=0).float()
        self.std.copy_(torch.where(std > STILL, std, 1.0))
        self.low.copy_(now.amin(0) - MARGIN * self.std)
        self.high.copy_(now.amax(0) + MARGIN * self.std)
        for column, values in enumerate((outcome.rewards, outcome.costs)):
            binary = bool(((values == 0.0) | (values == 1.0)).all())
            self.binary[column] = float(binary)
            if not binary:
                self.scale[0, column] = values.mean()
                self.scale[1, column] = values.std(correction=0).clamp(min=STILL)

    def features(self, window: Window) -> Tensor:
        """Return what the networks see of windows (..., L, O) and (..., L, A): (..., F)."""
        observations, actions = window
        now = (observations[..., -1, :] - self.mean) / self.std
        seen = [now]
        if self.config.history > 1:
            steps = (observations[..., 1:, :] - observations[..., :-1, :]) / self.change
            seen.append((steps * self.moving).flatten(-2))
        bins = self.config.two_hot_bins
        seen.append((encode(actions, bins).flatten(-2) if bins else actions).flatten(-2))
        if self.config.relative:
            one, other = (list(columns) for columns in zip(*self.config.relative, strict=True))
            gap = observations[..., -1, one] - observations[..., -1, other]
            seen.append(gap / self.config.relative_scale)
        return torch.cat(seen, dim=-1)

    def denoise(self, noisy: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        """Return the predicted clean changes (M, B, O) of noisy ones at noise levels sigma (M|1, B|1, 1)."""
        variance = 1.0 + sigma.square()
        shown = [features, noisy / variance.sqrt(), (sigma.log() / 4.0).expand(*noisy.shape[:2], 1)]
        predicted: Tensor = self.dynamics(torch.cat(shown, dim=-1))
        return noisy / variance + sigma / variance.sqrt() * predicted

    def changes(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return the members' normalised changes (M, B, O) for features (M, B, F) and noise (M|1, B, O)."""
        if self.config.kind == "deterministic":
            predicted: Tensor = self.dynamics(features)
            return predicted
        process, steps = _process(self.config.diffusion, noise.device), self.config.diffusion.steps
        sampler = Sampler(process, "ddim", tuple(range(steps - 1, -1, -1)))

        def denoiser(noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
            return self.denoise(noisy, process.noise[level][:, None, None], condition)

        start = noise.expand(1, self.members, *noise.shape[1:])
        sampled: Tensor = sampler.sample(denoiser, features, start)
        return sampled

    def outcomes(self, features: Tensor, changes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the members' rewards, costs and terminations (M, B) for features (M, B, F) and changes (M, B, O)."""
        raw: Tensor = self.heads(torch.cat([features, changes * self.learnt], dim=-1))
        numbers = self.scale[0] + self.scale[1] * raw[..., :2]
        rewards, costs = torch.where(self.binary > 0.0, raw[..., :2].sigmoid(), numbers).unbind(-1)
        return rewards, costs, raw[..., 2].sigmoid()

    @torch.no_grad()
    def imagine(self, window: Window, member: Tensor, generator: torch.Generator) -> Imagined:
        """Return what member `member` (B,) int64 expects of windows (B, L, O) and (B, L, A).

        All members start from the same noise, so that they differ by what they have learnt alone.
        """
        features = self.features(window)
        noise = torch.empty_like(window.observations[:, -1]).normal_(generator=generator)
        seen = features.expand(self.members, *features.shape)
        changes = self.changes(seen, noise[None])
        rows = torch.arange(len(member), device=member.device)
        spread = changes.std(dim=0, correction=0) * self.learnt
        uncertainty = spread.sum(-1) / self.learnt.sum().clamp(min=1.0)
        rewards, costs, terminations = (each[member, rows] for each in self.outcomes(seen, changes))
        following = self._following(window, changes[member, rows])
        return Imagined(following, rewards, costs, terminations, uncertainty)

    @torch.no_grad()
    def expect(self, window: Window, member: Tensor, generator: torch.Generator) -> Expected:
        """Return the same as `imagine`, to rounding, by the one member asked for: in a fraction of its time."""
        features = self.features(window)
        noise = torch.empty_like(window.observations[:, -1]).normal_(generator=generator)
        rows, place = self._by_member(member)
        seen = features[rows]
        changes = self.changes(seen, noise[rows])
        chosen = (each.flatten()[place] for each in self.outcomes(seen, changes))
        return Expected(self._following(window, changes.flatten(0, 1)[place]), *chosen)

    def _following(self, window: Window, changes: Tensor) -> Tensor:
        """Return the observations (B, O) after normalised changes (B, O), kept within the data's box."""
        now = window.observations[:, -1]
        following = (now + changes * self.change * self.learnt).clamp(self.low, self.high)
        return torch.where(self.source < 0, following, now[:, self.source.clamp(min=0)])

    def _by_member(self, member: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows each member has to imagine (M, K), filled up with row 0, and where each row went (B,)."""
        counts = torch.bincount(member, minlength=self.members)
        order = member.argsort(stable=True)
        grouped, most = member[order], int(counts.max())
        slot = torch.arange(len(member), device=member.device) - (counts.cumsum(0) - counts)[grouped]
        rows = torch.zeros(self.members, most, dtype=torch.int64, device=member.device)
        rows[grouped, slot] = order
        return rows, torch.empty_like(order).scatter_(0, order, grouped * most + slot)

    def loss(self, window: Window, outcome: Outcome, generator: torch.Generator) -> dict[str, Tensor]:
        """Return losses, to be summed, of a batch for each member: windows (M, B, L, O) and outcomes (M, B, ...)."""
        if self.config.history_noise > 0.0:
            blur = self.config.history_noise * self.change * self.moving
            drawn = torch.empty_like(window.observations).normal_(generator=generator)
            window = window._replace(observations=window.observations + blur * drawn)
        features = self.features(window)
        change = (outcome.next_observations - window.observations[..., -1, :]) / self.change * self.learnt
        losses = {"dynamics": self._dynamics_loss(features, change, generator)}
        raw = self.heads(torch.cat([features, change], dim=-1))
        for column, (name, values) in enumerate((("reward", outcome.rewards), ("cost", outcome.costs))):
            if self.binary[column] > 0.0:
                losses[name] = F.binary_cross_entropy_with_logits(raw[..., column], values)
            else:
                losses[name] = F.mse_loss(
                    raw[..., column], (values - self.scale[0, column]) / self.scale[1, column]
                )
        losses["termination"] = F.binary_cross_entropy_with_logits(raw[..., 2], outcome.terminations)
        return losses

    def _dynamics_loss(self, features: Tensor, change: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.kind == "deterministic":
            errors = self.dynamics(features) - change
        else:
            options = self.config.diffusion
            shape = (*change.shape[:2], 1)
            drawn = torch.empty(shape, device=change.device).normal_(generator=generator)
            sigma = (options.mean + options.std * drawn).exp()
            noise = torch.empty_like(change).normal_(generator=generator)
            clean = self.denoise(change + sigma * noise, sigma, features)
            # EDM's weight: the error of the raw network is that of the clean change over c_out.
            errors = (clean - change) * (1.0 + sigma.square()).sqrt() / sigma
        losses = 2.0 * F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=OUTLIER)
        loss: Tensor = (losses * self.learnt).mean() * (
            self.learnt.numel() / self.learnt.sum().clamp(min=1.0)
        )
        return loss


@lru_cache(maxsize=32)
def _process(options: DiffusionSteps, device: torch.device) -> GaussianProcess:
    """Return the sampler's noise levels; kept, because at small batches making them costs as much as a network."""
    if options.steps == 1:
        one = torch.ones(1)
        return GaussianProcess(one, options.sigma_max * one, "sample", device)
    return edm(options.steps, options.sigma_min, options.sigma_max, options.rho, "sample").to(device)


def _sources(now: Tensor, following: Tensor, moving: Tensor) -> Tensor:
    """Return for each column of states (N, O) the one whose value it takes a step later, always and exactly, or -1."""
    few = slice(SCREENED)
    same = (following[few, :, None] == now[few, None, :]).all(0) & moving[:, None] & moving[None, :]
    same.fill_diagonal_(False)
    found = torch.full((now.shape[1],), -1, device=now.device)
    for column, other in same.nonzero().tolist():
        if torch.equal(following[:, column], now[:, other]):
            found[column] = other
    return found
