"""From a checkpoint to a chunk model that acts; needs neither the data, nor a simulator, nor Hydra."""

from collections.abc import Mapping
from typing import Any

import torch

from diffpolicy.policies.chunk_config import config_from
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.errors import PolicyError
from diffpolicy.training import Checkpoint
from envs.layout import Affine, Body, Layout, Symmetry


def load_chunk_model(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> ChunkModel:
    """Return the model of a checkpoint of `DiffusionLearner`, with its averaged weights, ready to act on `device`.

    Raises PolicyError for a checkpoint of another method, or one that does not fit its own description.
    """
    manifest = checkpoint.manifest
    if manifest.get("method") != "diffusion":
        raise PolicyError(
            f"{checkpoint.path} holds a policy of method {manifest.get('method')!r}, not one of action chunks"
        )
    config = config_from(checkpoint.config["policy"])
    sizes = (manifest["observation_size"], manifest["action_size"])
    drawn = torch.Generator()  # the initial weights are replaced below
    model = ChunkModel(config, *sizes, layout_from(manifest["layout"]), drawn)
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise PolicyError(
            f"the weights in {checkpoint.path} do not fit its configuration: {error}"
        ) from error
    model.picture_sizes = {name: (size[0], size[1]) for name, size in manifest.get("cameras", {}).items()}
    return model.requires_grad_(False).eval().to_device(device)


def layout_from(stored: Mapping[str, Any]) -> Layout:
    """Return the layout whose `asdict` went through JSON."""
    bodies = (Body(tuple(body["position"]), body["angle"]) for body in stored["bodies"])
    symmetries = (
        Symmetry(_affine(each["observation"]), _affine(each["action"])) for each in stored["symmetries"]
    )
    return Layout(
        agent=tuple(stored["agent"]),
        agent_scale=stored["agent_scale"],
        agent_offset=stored["agent_offset"],
        angles=tuple(stored["angles"]),
        bodies=tuple(bodies),
        discrete=tuple(stored["discrete"]),
        symmetries=tuple(symmetries),
    )


def _affine(stored: Mapping[str, Any]) -> Affine:
    return Affine(tuple(tuple(row) for row in stored["matrix"]), tuple(stored["offset"]))
