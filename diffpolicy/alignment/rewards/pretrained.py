"""Reading reward models that others have trained: from a local folder or the Hugging Face hub, never by pickle."""

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffpolicy.training.errors import FeedbackError


def transformers() -> Any:
    """Return the transformers library.

    Raises:
        FeedbackError: if it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise FeedbackError(
            "rewards with language or vision models need transformers: pip install 'diffpolicy[images]'"
        ) from error


def from_pretrained(kind: str, path: str | Path, what: str) -> Any:
    """Return what the transformers class `kind` reads from a folder, or from the hub if `path` is an id "owner/name".

    `what` says what is to be downloaded. A folder is read without any look at the network.

    Raises:
        FeedbackError: if it is not there; one sentence says what is needed and where.
    """
    folder = Path(path).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or str(path).count("/") != 1 or str(path)[0] in "~."):
        raise FeedbackError(f"there is no folder {folder}: download {what} to it")
    try:
        return getattr(transformers(), kind).from_pretrained(
            folder if local else str(path), local_files_only=local
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = (
            f"the folder {folder} does not hold"
            if local
            else f"neither a folder nor the hub gave {path}, for"
        )
        raise FeedbackError(
            f"{where} {what} ({kind}: {_first_line(error)}); download it to a folder and name that"
        ) from error


def weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of a PyTorch file that holds nothing else.

    PyTorch files are read with `weights_only`, which runs no code of theirs; a "state_dict" inside is taken out.

    Raises:
        FeedbackError: if there are none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FeedbackError(f"there is no file {file}: download {what} to it")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken file raises is anything
        raise FeedbackError(f"{file} is not {what}: {_first_line(error)}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FeedbackError(f"{file} is not {what}: it holds other things than named tensors")
    return found


def load(module: nn.Module, found: dict[str, Tensor], what: str) -> None:
    """Put tensors into a module, exactly those that it has.

    Raises:
        FeedbackError: if names or shapes differ.
    """
    try:
        module.load_state_dict(found)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise FeedbackError(f"these weights are not those of {what}: {lines[:300]}") from error


def frozen(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Return a module for inference whose weights get no gradients."""
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
