"""Speed and memory of alignment: samples per second, the denoiser's share of the time, what checkpointing saves."""

import multiprocessing
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn

from diffpolicy.alignment import (
    AlignConfig,
    Aligner,
    CopiedRoles,
    Model,
    Prompts,
    Reward,
    Rewards,
    RoleBook,
    Term,
)
from diffpolicy.alignment.adapters import AdapterRoles
from diffpolicy.alignment.digits import digits_model, make_network
from diffpolicy.alignment.recipes import build_experience, build_objective, online_config
from diffpolicy.cli.benches.measuring import Measurement
from diffpolicy.diffusion import Denoiser, rectified_flow, trailing

LEVELS, TOKENS, WIDTH = 1000, 77, 256


@dataclass
class Stopwatch:
    """Seconds that a denoiser spends, forward and backward, whoever calls it.

    A backward pass through it begins with the gradient of its output, and ends with that of the last parameter.
    """

    device: torch.device
    seconds: float = 0.0
    _began: float = field(default=0.0, init=False)

    def watch(self, network: nn.Module) -> None:
        """Time a network whose parameters that learn are known."""
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._end)  # type: ignore[no-untyped-call]

    def call(self, denoiser: Denoiser, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        """Return the denoiser's prediction, timed."""
        began = self.now()
        out = denoiser(noisy, level, condition)
        self.seconds += self.now() - began
        if out.requires_grad:
            out.register_hook(self._begin)  # type: ignore[no-untyped-call]
        return out

    def now(self) -> float:
        """Return the time [s] when the device is done with what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _begin(self, gradient: Tensor) -> None:
        self._began = self.now()

    def _end(self, parameter: Tensor) -> None:
        now = self.now()
        self.seconds += now - self._began
        self._began = now


class Tokens(Prompts):
    """Prompts as a text encoder leaves them, at random."""

    def __init__(self, count: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)
        self.tokens = torch.empty(count, TOKENS, WIDTH, device=device).normal_(generator=generator)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.tokens)

    def condition(self, index: Tensor, guided: bool) -> Tensor:
        """Return the tokens (B, 77, 256) of prompts (B,), without guidance."""
        return self.tokens[index]

    def labels(self, index: Tensor) -> list[int]:
        """Return the numbers of the prompts (B,)."""
        return list(index.tolist())


class Brightness(Reward):
    """A reward that costs nothing, so that what is measured is alignment itself."""

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the mean of samples (B, *S)."""
        return Rewards(samples.flatten(1).mean(dim=1))


def align(cfg: DictConfig, device: torch.device) -> Measurement:
    """Time whole iterations for `cfg.seconds`; memory is measured in processes of its own."""
    rows = {name: iteration(cfg, model_of(name, cfg, device)) for name in ("unet2d_condition", "digits_unet")}
    options = OmegaConf.to_container(cfg, resolve=True)
    for name in ("plain", "checkpointed"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            arguments = (options, str(device), name == "checkpointed")
            rows["unet2d_condition"][f"peak_memory_mb_{name}"] = pool.apply(peak_memory, arguments)
    console = Console(highlight=False, soft_wrap=True)
    for name, row in rows.items():
        console.print(f"{name}: " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    main = rows["unet2d_condition"]
    return Measurement(
        main["samples_per_s"],
        "samples/s (roll-out and training, UNet2DConditionModel with LoRA)",
        main["samples_per_s"] / main["denoiser_share"],
        "the denoiser's forward and backward passes alone, samples/s",
        {"objective": cfg.objective, "samples": float(cfg.groups * cfg.group_size), "rows": rows},
    )


def model_of(
    name: str, cfg: DictConfig, device: torch.device, checkpointing: bool = False
) -> tuple[Model, Stopwatch]:
    """Return a model with random weights, and the stopwatch that its denoiser carries."""
    watch = Stopwatch(device)
    if name == "digits_unet":
        digits = digits_model("unet", make_network("unet", torch.Generator().manual_seed(0)).to(device))
        digits = replace(digits, process=digits.process.to(device))
        assert isinstance(digits.roles, CopiedRoles)
        network = digits.roles.network("train")
        watch.watch(network)
        roles = CopiedRoles(network, lambda each: timed(watch, each))
        return Model(digits.process, digits.levels, digits.shape, roles), watch
    network = unet(cfg).to(device)
    if checkpointing:
        network.enable_gradient_checkpointing()
    adapters: RoleBook = AdapterRoles(network, lambda each: timed(watch, called(each)), rank=cfg.rank)
    watch.watch(network)
    shape = (4, cfg.latents, cfg.latents)
    levels = trailing(LEVELS, cfg.steps)
    process = rectified_flow(LEVELS).to(device)
    return Model(process, levels, shape, adapters, Tokens(cfg.groups, device)), watch


def timed(watch: Stopwatch, denoiser: Denoiser) -> Denoiser:
    """Return a denoiser that carries a stopwatch."""
    return lambda noisy, level, condition: watch.call(denoiser, noisy, level, condition)


def called(network: nn.Module) -> Denoiser:
    """Return a UNet of the diffusers library as a denoiser."""
    return lambda noisy, level, condition: network(noisy, level, condition).sample


def unet(cfg: DictConfig) -> Any:
    """Return a UNet2DConditionModel in the manner of Stable Diffusion's, smaller."""
    from diffusers import UNet2DConditionModel  # slow to import

    inner = len(cfg.channels) - 1
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=cfg.latents,
        block_out_channels=tuple(cfg.channels),
        down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
        cross_attention_dim=WIDTH,
    )


def make_aligner(cfg: DictConfig, model: Model) -> Aligner:
    """Return a trainer that never ends, of the configured objective and the reward that costs nothing."""
    online = online_config(cfg.objective, groups=cfg.groups, group_size=cfg.group_size)
    options = {"draws": cfg.draws} if cfg.objective in ("nft", "awm", "rwr") else {}
    objective = build_objective(cfg.objective, model, Brightness(), options=options)
    experience = build_experience(model, Brightness(), objective, online)
    return Aligner(model, [Term(objective, experience)], AlignConfig(updates=cfg.updates))


def iteration(cfg: DictConfig, made: tuple[Model, Stopwatch]) -> dict[str, float]:
    """Return samples per second of roll-outs, of training and of both, and the denoiser's share of the time."""
    model, watch = made
    aligner = make_aligner(cfg, model)
    experience, roles = aligner.terms[0].experience, model.roles
    generator = torch.Generator(model.device).manual_seed(1)
    experience.gather(roles, generator)
    for step in range(cfg.updates):
        aligner.update(step)
    rollout: list[float] = []
    whole: list[float] = []
    within, began = 0.0, watch.now()
    while watch.now() - began < cfg.seconds / 2 or len(whole) < 3:
        start = watch.now()
        experience.gather(roles, generator)
        rollout.append(watch.now() - start)
        start, before = watch.now(), watch.seconds
        for step in range(cfg.updates):
            aligner.update(step)
        whole.append(watch.now() - start)
        within += watch.seconds - before
    samples, mean, alone = cfg.groups * cfg.group_size, sum(whole) / len(whole), sum(rollout) / len(rollout)
    return {
        "samples_per_s": samples / mean,
        "rollout_samples_per_s": samples / alone,
        "training_samples_per_s": samples / max(mean - alone, 1e-9),
        "denoiser_share": within / sum(whole),
        "iterations": float(len(whole)),
    }


def peak_memory(options: dict[str, Any], device: str, checkpointing: bool) -> float:
    """Return by how many MB an update raises the memory of this process, or of the CUDA device."""
    cfg, place = OmegaConf.create(options), torch.device(device)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    model, _ = model_of("unet2d_condition", cfg, place, checkpointing)
    aligner = make_aligner(cfg, model)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        before = torch.cuda.memory_allocated(place)
        aligner.update(0)
        return (torch.cuda.max_memory_allocated(place) - before) / 1e6
    start = resident("VmRSS")
    aligner.update(0)
    return resident("VmHWM") - start


def resident(name: str) -> float:
    """Return a size [MB] of this process: "VmRSS" now, "VmHWM" at its peak.

    Not ru_maxrss, which a process takes over from the one that started it.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status says nothing of {name}")
    return int(found[1]) * 1024 / 1e6
