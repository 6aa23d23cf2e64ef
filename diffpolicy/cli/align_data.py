"""Files that offline objectives learn from: comparisons, or samples worth repeating."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffpolicy.alignment import Model, Pairs, Rollout
from diffpolicy.cli.errors import ConfigError


def load_samples(file: Path, model: Model) -> Rollout | Pairs:
    """Return the samples in a .npz file: `winner` and `loser` (N, *S), or `clean` (N, *S); `prompt` (N,) numbers them.

    They are what the model denoises (latents, not pictures, of a latent pipeline), and prompts those of the run.

    Raises:
        ConfigError: if the file is not one, or its samples are not of the model.
    """
    file = file.expanduser()
    if not file.is_file():
        raise ConfigError(f"data={file}: there is no such file")
    if not zipfile.is_zipfile(file):
        raise ConfigError(f"data={file} is not a .npz file, which numpy.savez writes")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"data={file} is damaged, or not all of it are arrays of numbers: {error}"
        ) from error
    names = ("winner", "loser") if "winner" in arrays else ("clean",)
    found = [_checked(arrays, name, file, model) for name in names]
    if len({len(each) for each in found}) > 1:
        raise ConfigError(f"data={file}: there are {len(found[0])} winners and {len(found[1])} losers")
    prompt = arrays.get("prompt", torch.zeros(len(found[0]))).long().to(model.device)
    if prompt.shape != (len(found[0]),) or not 0 <= prompt.min() <= prompt.max() < len(model.prompts):
        raise ConfigError(
            f"data={file}: 'prompt' is one number for each sample, from 0 to {len(model.prompts) - 1}"
        )
    condition = model.prompts.condition(prompt, guided=False)
    return Pairs(found[0], found[1], condition) if len(found) > 1 else Rollout(found[0], condition, prompt)


def _checked(arrays: dict[str, Tensor], name: str, file: Path, model: Model) -> Tensor:
    if name not in arrays:
        raise ConfigError(
            f"data={file} holds {', '.join(arrays) or 'nothing'}; comparisons are 'winner' and 'loser', samples 'clean'"
        )
    if arrays[name].is_complex():
        raise ConfigError(f"data={file}: {name!r} holds complex numbers; samples are real")
    values = arrays[name].float().to(model.device)
    if values.shape[1:] != model.shape or not len(values):
        raise ConfigError(
            f"data={file}: {name!r} is {tuple(values.shape)}, samples of this model are {model.shape}, at least one"
        )
    if not torch.isfinite(values).all():
        raise ConfigError(f"data={file}: {name!r} holds numbers that are not finite")
    return values
