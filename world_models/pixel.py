"""A world model of pixels: the next frame by diffusion, and what it means."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.diffusion import Sampler, edm
from diffpolicy.networks.layers import linear
from world_models.errors import WorldModelError
from world_models.frames import FrameOutcome, FrameWindows
from world_models.outcomes import OutcomeHeads
from world_models.pixel_config import PixelConfig
from world_models.state import Imagined
from world_models.two_hot import encode
from world_models.unet2d import SIZES, UNet2D
from world_models.windows import FrameWindow


class Preconditioning(NamedTuple):
    """EDM's factors at some noise levels, of their shape."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


def preconditioning(sigma: Tensor, data: float, offset: float) -> Preconditioning:
    """Return the factors for noise of deviation `sigma`, beside offset noise, on pixels of deviation `data`.

    Karras et al. 2022, table 1, at s = sqrt(sigma^2 + offset^2), as in DIAMOND: what the network sees and what it is to
    say both have unit variance.
    """
    variance = sigma.square() + offset**2
    c_skip = data**2 / (variance + data**2)
    return Preconditioning(
        (variance + data**2).rsqrt(), c_skip, (variance * c_skip).sqrt(), variance.log() / 8.0
    )


def to_pixels(frames: Tensor) -> Tensor:
    """Return frames (..., S, S, 3) uint8 as pixels (..., 3, S, S) in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def to_frames(pixels: Tensor) -> Tensor:
    """Return pixels (..., 3, S, S), cut to [-1, 1], as frames (..., S, S, 3) uint8, the nearest of 256 steps."""
    return ((pixels.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).movedim(-3, -1)


class PixelWorldModel(nn.Module):
    """Predicts the next frame from `history` frames and actions by diffusion, and from it success, cost and the end.

    DIAMOND's denoiser (Alonso et al. 2024) for actions that are numbers, two-hot as in World4RL (Jiang et al. 2025). It
    is one network: `uncertainty` is 0, for it does not know how sure it is.
    """

    def __init__(self, config: PixelConfig, action_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.action_size = config, action_size
        size = SIZES[config.network]
        inputs = 3 * (config.history + 1) + config.maps * (2 + config.history * action_size)
        self.unet = UNet2D(inputs, 3, size, generator)
        self.actions = linear(config.history * action_size * config.bins, size.condition, generator)
        # The embedding of all actions together varies like that of the noise level, or it would long go unheard.
        nn.init.normal_(self.actions.weight, std=(config.history * action_size) ** -0.5, generator=generator)
        self.expand = linear(size.condition, size.condition, generator)
        self.contract = linear(size.condition, size.condition, generator)
        self.heads = OutcomeHeads(config.history, config.size, generator)
        # Random frequencies for the noise level (Tancik et al. 2020), and a vector for each task.
        frequencies = torch.empty(size.condition // 2, device=self.actions.weight.device)
        self.register_buffer("frequencies", frequencies.normal_(generator=generator))
        # What a pixel's change is multiplied by, so that it varies like a pixel; `fit` measures it.
        self.register_buffer("scale", torch.ones((), device=self.actions.weight.device))
        # The column and the row of each pixel, from -1 to 1 (Liu et al. 2018, "CoordConv").
        span = torch.linspace(-1.0, 1.0, config.size, device=self.actions.weight.device)
        places = torch.stack(torch.meshgrid(span, span, indexing="xy"))
        self.register_buffer("places", places, persistent=False)
        tasks = torch.empty(config.tasks, size.condition, device=self.actions.weight.device)
        self.tasks = nn.Parameter(tasks.normal_(generator=generator)) if config.tasks > 1 else None

    frequencies: Tensor
    scale: Tensor
    places: Tensor

    @property
    def members(self) -> int:
        """How many networks there are: one."""
        return 1

    def fit(self, windows: FrameWindows) -> None:
        """Take how frequent outcomes are, and how much pixels change, from the transitions of a dataset.

        Raises:
            WorldModelError: if it is not one that the model can be trained on.
        """
        if int(windows.tasks.max()) >= self.config.tasks:
            raise WorldModelError(
                f"the data have a task {int(windows.tasks.max())}, the model knows 0 to {self.config.tasks - 1}: give "
                "it more tasks"
            )
        self.heads.frequency.copy_(windows.labels.double().mean(0))
        if self.config.predicts == "change":
            self.scale.copy_(self.config.noise.data / windows.change().clamp(min=1.0 / 255.0))

    def condition(self, window: FrameWindow, c_noise: Tensor) -> Tensor:
        """Return the condition vector (B, K) of windows of B moments at noise levels c_noise (B,)."""
        phase = 2.0 * torch.pi * c_noise[:, None] * self.frequencies
        told = torch.cat([phase.cos(), phase.sin()], dim=-1)
        told = told + self.actions(encode(window.actions, self.config.bins).flatten(1))
        if self.tasks is not None:
            told = told + self.tasks[window.tasks]
        output: Tensor = self.contract(F.silu(self.expand(told)))
        return output

    def drawn(self, frames: Tensor, window: FrameWindow) -> Tensor:
        """Return what is drawn by diffusion (B, 3, S, S) if frames (B, S, S, 3) come next: them, or their change."""
        if self.config.predicts == "frame":
            return to_pixels(frames)
        return (to_pixels(frames) - to_pixels(window.observations[:, -1])) * self.scale

    def framed(self, drawn: Tensor, window: FrameWindow) -> Tensor:
        """Return the frames (B, S, S, 3) that are `drawn` (B, 3, S, S): the inverse, cut and rounded to 8 bits."""
        if self.config.predicts == "frame":
            return to_frames(drawn)
        return to_frames(to_pixels(window.observations[:, -1]) + drawn / self.scale)

    def raw(self, noisy: Tensor, factors: Preconditioning, window: FrameWindow) -> Tensor:
        """Return what the network says (B, 3, S, S) of what is drawn with noise on it, for factors (B,)."""
        shown = to_pixels(window.observations).flatten(1, 2) / self.config.noise.data
        maps = torch.cat([shown, factors.c_in[:, None, None, None] * noisy, *self._maps(window)], dim=1)
        with torch.autocast(maps.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            output: Tensor = self.unet(maps, self.condition(window, factors.c_noise))
        return output.float()

    def _maps(self, window: FrameWindow) -> list[Tensor]:
        """Return places (B, 2, S, S) and actions (B, L A, S, S), the same everywhere (Finn et al. 2016), or nothing."""
        if not self.config.maps:
            return []
        shape = (len(window.actions), -1, self.config.size, self.config.size)
        return [self.places.expand(shape), window.actions.flatten(1)[:, :, None, None].expand(shape)]

    def denoise(self, noisy: Tensor, sigma: Tensor, window: FrameWindow) -> Tensor:
        """Return the predicted clean values (B, 3, S, S) of noisy ones at noise levels sigma (B,)."""
        factors = preconditioning(sigma, self.config.noise.data, self.config.noise.offset)
        _, c_skip, c_out, _ = (each[:, None, None, None] for each in factors)
        return c_skip * noisy + c_out * self.raw(noisy, factors, window)

    @torch.no_grad()
    def next_frames(self, window: FrameWindow, generator: torch.Generator) -> Tensor:
        """Return frames (B, S, S, 3) uint8 drawn for what comes next; each prediction on the way is a real frame."""
        options = self.config.noise
        process = edm(options.steps, options.sigma_min, options.sigma_max, options.rho, "sample")
        process = process.to(generator.device)

        def denoiser(noisy: Tensor, level: Tensor, shown: FrameWindow) -> Tensor:
            predicted = self.denoise(noisy, process.noise[level], shown)
            return self.drawn(self.framed(predicted, shown), shown)

        sampler = Sampler(process, "ddim", tuple(range(options.steps - 1, -1, -1)))
        noise = sampler.draw((len(window.actions), 3, self.config.size, self.config.size), generator)
        return self.framed(sampler.sample(denoiser, window, noise), window)

    @torch.no_grad()
    def imagine(self, window: FrameWindow, member: Tensor, generator: torch.Generator) -> Imagined:
        """Return what comes of windows of B moments; a reward is 1 where success is believed, else 0."""
        frames = self.next_frames(window, generator)
        success, cost, termination = self.outcomes(window, frames).unbind(-1)
        return Imagined(
            frames, (success > self.config.certainty).float(), cost, termination, torch.zeros_like(cost)
        )

    def outcomes(self, window: FrameWindow, next_frames: Tensor) -> Tensor:
        """Return the probabilities (B, 3) of success, cost and termination where frames (B, S, S, 3) come next."""
        return self.heads.probabilities(to_pixels(window.observations).flatten(1, 2), to_pixels(next_frames))

    def dynamics_loss(
        self, window: FrameWindow, next_frames: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of predicting frames (B, S, S, 3) at random noise levels, and the frames predicted."""
        options = self.config.noise
        clean = self.drawn(next_frames, window)
        sigma, offset, noise = (
            torch.empty(shape, device=clean.device).normal_(generator=generator)
            for shape in ((len(clean),), (len(clean), 3, 1, 1), clean.shape)
        )
        sigma = (options.mean + options.std * sigma).exp().clamp(options.lowest, options.highest)
        noisy = clean + sigma[:, None, None, None] * noise + options.offset * offset
        factors = preconditioning(sigma, options.data, options.offset)
        _, c_skip, c_out, _ = (each[:, None, None, None] for each in factors)
        said = self.raw(noisy, factors, window)
        predicted = self.framed((c_skip * noisy + c_out * said).detach(), window)
        return F.mse_loss(said, (clean - c_skip * noisy) / c_out), predicted

    def outcome_loss(
        self, window: FrameWindow, outcome: FrameOutcome, weights: Tensor | None = None
    ) -> Tensor:
        """Return the losses (3,) of telling success, cost and termination from real frames, of `weights` (B,)."""
        shown = to_pixels(window.observations).flatten(1, 2)
        return self.heads.loss(shown, to_pixels(outcome.next_frames), outcome.labels, weights)
