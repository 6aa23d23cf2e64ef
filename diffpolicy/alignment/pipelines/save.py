"""Adapters as the LoRA files that plain diffusers pipelines load."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffpolicy.alignment.adapters import AdapterRoles, adapter_name
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.roles import TRAIN

_LOADERS = {
    "UNet2DConditionModel": ("unet", "StableDiffusionXLLoraLoaderMixin"),
    "SD3Transformer2DModel": ("transformer", "SD3LoraLoaderMixin"),
    "FluxTransformer2DModel": ("transformer", "FluxLoraLoaderMixin"),
}


def save_adapter(model: Model, folder: str | Path, role: str = TRAIN) -> Path:
    """Write the adapter of a role to `pytorch_lora_weights.safetensors` in a folder, and return that file.

    `pipe.load_lora_weights(folder)` of the pipeline that the model was loaded from then makes the same images.

    Raises:
        ValueError: if the model has no adapters, nobody plays the role, or its pipeline cannot load any.
    """
    roles = model.roles
    if not isinstance(roles, AdapterRoles):
        raise ValueError(f"only a model with adapters can save one, this one has {type(roles).__name__}")
    if role not in roles or role == "reference":
        raise ValueError(f"no adapter plays the role {role!r}; there are {', '.join(roles)}")
    network = type(roles.network).__name__
    if network not in _LOADERS:
        raise ValueError(
            f"plain diffusers loads adapters of {', '.join(_LOADERS)}, not of {network}; a run's checkpoints hold "
            "its tensors, and so do model.roles"
        )
    part, mixin = _LOADERS[network]
    loader = getattr(import_module("diffusers.loaders.lora_pipeline"), mixin)
    weights = import_module("peft.utils").get_peft_model_state_dict(
        roles.network, adapter_name=adapter_name(role)
    )
    kept = {key: tensor.detach().to("cpu", torch.float32).clone() for key, tensor in weights.items()}
    loader.save_lora_weights(
        str(folder),
        **{f"{part}_lora_layers": kept, f"{part}_lora_adapter_metadata": _metadata(roles.config)},
    )
    return Path(folder) / "pytorch_lora_weights.safetensors"


def _metadata(config: Any) -> dict[str, Any]:
    """Return the configuration of an adapter as JSON can hold it."""
    metadata: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=sorted))
    return metadata
