"""A diffusers pipeline as a model to be aligned."""

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffpolicy.alignment.adapters import ATTENTION, AdapterRoles
from diffpolicy.alignment.model import Model, Prompts, Unprompted
from diffpolicy.alignment.pipelines.decode import latent_decoder, pixels
from diffpolicy.alignment.pipelines.networks import (
    Call,
    call_flux,
    call_sd3,
    call_unconditional,
    call_unet,
    make_denoiser,
)
from diffpolicy.alignment.pipelines.prompts import encode_texts
from diffpolicy.alignment.pipelines.schedule import read_schedule

_JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_UNSAFE = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
)  # parts that are not needed, hence not loaded


class Family(NamedTuple):
    """Pipelines of one kind: their network, how it is called, what is adapted, latents to a token, and guidance."""

    network: str
    call: Call
    targets: tuple[str, ...]
    patch: int
    guidance: float


FAMILIES = {
    "StableDiffusionPipeline": Family("unet", call_unet, ATTENTION, 1, 7.5),
    "StableDiffusionXLPipeline": Family("unet", call_unet, ATTENTION, 1, 5.0),
    "StableDiffusion3Pipeline": Family("transformer", call_sd3, _JOINT_ATTENTION, 2, 7.0),
    "FluxPipeline": Family("transformer", call_flux, _JOINT_ATTENTION, 2, 3.5),
    "DDPMPipeline": Family("unet", call_unconditional, ATTENTION, 1, 1.0),
    "DDIMPipeline": Family("unet", call_unconditional, ATTENTION, 1, 1.0),
}


def load_pipeline(
    path_or_id: str | Path,
    *,
    prompts: Sequence[str] = (),
    steps: int = 10,
    guidance: float | None = None,
    lora_rank: int = 8,
    lora_alpha: float | None = None,
    lora_targets: Sequence[str] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    checkpointing: bool = False,
    device: torch.device | str = "cpu",
    size: int | None = None,
) -> Model:
    """Return a diffusers pipeline with LoRA adapters as a model that answers `prompts` in `steps` steps.

    It is read from a folder, or by its id from the local Hugging Face cache, from safetensors only. `guidance` is that
    of roll-outs, by default the pipeline's own: away from the negative prompt "" above 1, or for FLUX what its network
    is told. `size` is that of the square images in pixels, by default what the model was made for. The network and the
    text encoders are in `dtype`, adapters, the decoder and everything else in float32. With `checkpointing` activations
    are computed again in the backward pass. Text encoders are let go of once the prompts are encoded.

    Raises:
        FileNotFoundError: if there is no such model here; nothing is downloaded.
        ModuleNotFoundError: if peft or transformers is not installed.
        ValueError: if the pipeline is of a kind, or an option of a size, that does not go with it.
    """
    name = _pipeline_class(path_or_id)
    family, precision = FAMILIES[name], _precision(dtype)
    pipe = _read(path_or_id, name, precision).to(device)
    network, decoded = getattr(pipe, family.network), family.call is not call_unconditional
    shape = _latent_shape(pipe, network, family, size)
    tokens = shape[1] * shape[2] // family.patch**2
    schedule = read_schedule(pipe.scheduler, steps, tokens, even=family.call is call_flux)
    scale = family.guidance if guidance is None else guidance
    answered: Prompts = Unprompted()
    if decoded:
        extra = _inputs_alike(name, network, shape, pipe, scale)
        answered = encode_texts(pipe, prompts, scale, {key: value.to(device) for key, value in extra.items()})
    elif prompts:
        raise ValueError(f"{name} is not conditioned on anything, so it cannot answer prompts: give none")
    if checkpointing:
        for module in (network, *([pipe.vae] if decoded else [])):
            module.enable_gradient_checkpointing()
    times = schedule.times.to(device)
    roles = AdapterRoles(
        network,
        lambda own: make_denoiser(own, family.call, times, precision),
        rank=lora_rank,
        alpha=lora_alpha,
        targets=family.targets if lora_targets is None else lora_targets,
    )
    decode = latent_decoder(pipe.vae) if decoded else pixels
    return Model(schedule.process.to(device), schedule.levels, shape, roles, answered, decode)


def _pipeline_class(path_or_id: str | Path) -> str:
    diffusers = import_module("diffusers")
    try:
        config = diffusers.DiffusionPipeline.load_config(str(path_or_id), local_files_only=True)
    except OSError as error:
        raise FileNotFoundError(
            f"there is no diffusers pipeline at {str(path_or_id)!r}, neither a folder with a model_index.json nor an "
            "id in the local Hugging Face cache; get it first, with: hf download ID"
        ) from error
    name = config.get("_class_name")
    if name not in FAMILIES:
        raise ValueError(f"{path_or_id} is a {name}; pipelines that can be aligned are {', '.join(FAMILIES)}")
    return str(name)


def _read(path_or_id: str | Path, name: str, precision: torch.dtype) -> Any:
    """Return the pipeline, its autoencoder in float32."""
    diffusers = import_module("diffusers")
    where = {"use_safetensors": True, "local_files_only": True}
    parts: dict[str, Any] = {}
    if FAMILIES[name].call is not call_unconditional:
        _need_transformers()
    try:
        # The one name of the dtype that every release of diffusers knows; the newest warn of it.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            if FAMILIES[name].call is not call_unconditional:
                parts["vae"] = diffusers.AutoencoderKL.from_pretrained(
                    str(path_or_id), subfolder="vae", torch_dtype=torch.float32, **where
                )
            if name == "StableDiffusionPipeline":
                parts |= dict.fromkeys(_UNSAFE) | {"requires_safety_checker": False}
            pipe = getattr(diffusers, name).from_pretrained(
                str(path_or_id), torch_dtype=precision, **where, **parts
            )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"the pipeline at {str(path_or_id)!r} cannot be read, a part of it is missing or not stored as "
            f"safetensors: {error}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _need_transformers() -> None:
    try:
        import_module("transformers")
    except ImportError as error:
        raise ModuleNotFoundError(
            "text-to-image models need the package transformers: pip install 'diffpolicy[images]'"
        ) from error


def _precision(dtype: str) -> torch.dtype:
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"the dtype of a network is float32 or bfloat16, not {dtype!r}")
    return torch.float32 if dtype == "float32" else torch.bfloat16


def _latent_shape(pipe: Any, network: Any, family: Family, size: int | None) -> tuple[int, int, int]:
    """Return the shape (C, h, w) of one sample: the latents of an image of `size` pixels."""
    factor = getattr(pipe, "vae_scale_factor", 1)
    default = getattr(pipe, "default_sample_size", None) or network.config.sample_size
    if not isinstance(default, int) and size is None:
        return (network.config.in_channels, *default)
    size = default * factor if size is None else size
    if size < 1 or size % (factor * family.patch):
        raise ValueError(
            f"images of this pipeline have a size in multiples of {factor * family.patch} pixels, got size={size}"
        )
    channels = network.config.in_channels // (4 if family.call is call_flux else 1)
    return channels, size // factor, size // factor


def _inputs_alike(
    name: str, network: Any, shape: tuple[int, ...], pipe: Any, guidance: float
) -> dict[str, Tensor]:
    """Return further inputs (1, ...) that are the same for all prompts: SDXL's image size, FLUX's guidance."""
    if name == "StableDiffusionXLPipeline":
        height, width = (side * pipe.vae_scale_factor for side in shape[1:])
        return {"size": torch.tensor([[height, width, 0, 0, height, width]])}
    if name == "FluxPipeline" and network.config.guidance_embeds:
        return {"guidance": torch.tensor([guidance])}
    return {}
