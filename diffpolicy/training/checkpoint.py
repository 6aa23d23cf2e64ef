"""Checkpoints: folders that are either whole or not there, readable with nothing but this module."""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from torch import Tensor

from diffpolicy.training.errors import CheckpointError
from diffpolicy.training.state import decode_state, decode_tensors, encode_state, encode_tensors

FOLDER = "checkpoints"
MODEL, CONFIG, MANIFEST, TRAINING = (
    "model.safetensors",
    "config.yaml",
    "manifest.json",
    "training.safetensors",
)
FORMAT = 1
RESERVED_MANIFEST_KEYS = frozenset({"format", "step", "sha256"})
_STEP_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY_PREFIX = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """What acting needs: CPU weights, configuration, and manifest (with `step` and each file's `sha256`)."""

    model: dict[str, Tensor]
    config: dict[str, Any]
    manifest: dict[str, Any]
    step: int
    path: Path


def write_checkpoint(
    folder: Path | str,
    step: int,
    *,
    model: dict[str, Tensor],
    state: Any,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> Path:
    """Write `folder/checkpoints/step-XXXXXXXX` after `step` updates and return it; all or nothing.

    The files are written and synced under a temporary name, then renamed. Afterwards only this checkpoint and
    the one before it are kept. Raises `CheckpointError` when writing fails (disk full, read-only), in which
    case every earlier checkpoint is untouched, and `StateError` when `state` cannot be stored.
    """
    contents = {MODEL: encode_tensors(model), TRAINING: encode_state(state), CONFIG: encode_config(config)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    described = json.loads(encode_manifest({**_free_of_reserved(manifest), "format": FORMAT, "step": step}))
    hashes[MANIFEST] = _manifest_hash(described)
    contents[MANIFEST] = encode_manifest({**described, "sha256": hashes})
    checkpoints = Path(folder) / FOLDER
    final = checkpoints / f"step-{step:08d}"
    temporary = checkpoints / f"{_TEMPORARY_PREFIX}{final.name}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        temporary.mkdir()
        for name, content in contents.items():
            _write_synced(temporary / name, content)
        _sync_folder(temporary)
        if final.exists():
            # Only an unreadable checkpoint is ever written a second time; an empty name is needed for the
            # rename.
            final.rename(checkpoints / f"{_TEMPORARY_PREFIX}old-{final.name}")
        temporary.rename(final)
        _sync_folder(checkpoints)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = step_folders(folder)
        last = f"the last one is {kept[-1]}" if kept else "there is none yet"
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {error.strerror or error}. Earlier checkpoints are "
            f"untouched "
            f"({last}). Make the folder writable or free some space, then run the same command again to "
            f"resume."
        ) from error
    remove_leftovers(folder)
    for older in step_folders(folder, before=step)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return final


def step_folders(folder: Path | str, *, before: int | None = None) -> list[Path]:
    """The complete checkpoint folders of a run, oldest first; with `before`, only those of fewer steps."""
    found = []
    for path in (Path(folder) / FOLDER).glob("step-*"):
        match = _STEP_NAME.fullmatch(path.name)
        if match and path.is_dir() and (before is None or int(match[1]) < before):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def remove_leftovers(folder: Path | str) -> None:
    """Remove what a killed write left under temporary names; no other process may be writing there."""
    for path in (Path(folder) / FOLDER).glob(f"{_TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(folder: Path | str, *, training: bool = True) -> Path | None:
    """The newest readable checkpoint of a run folder, or None when it has none at all.

    Unreadable ones are skipped with a warning. With `training` the training state must be whole as well.
    Raises `CheckpointError` when there are checkpoints but none is readable.
    """
    candidates = step_folders(folder)
    for path in reversed(candidates):
        try:
            manifest = _read_manifest(path)
            for name in (MODEL, CONFIG, TRAINING) if training else (MODEL, CONFIG):
                _read_verified(path, name, manifest)
        except CheckpointError as error:
            warnings.warn(f"skipping an unreadable checkpoint: {error}", stacklevel=2)
        else:
            return path
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {Path(folder) / FOLDER} is readable; restore "
            f"one from a copy, "
            "or delete that folder to start again"
        )
    return None


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read what acting needs from a step folder, or the newest readable one of a run or `checkpoints` folder.

    The SHA-256 of every file is verified. Raises `CheckpointError` when it is missing, incomplete or damaged.
    """
    folder = _resolve(Path(path))
    manifest = _read_manifest(folder)
    weights = _read_verified(folder, MODEL, manifest)
    text = _read_verified(folder, CONFIG, manifest)
    try:
        return Checkpoint(decode_tensors(weights), decode_config(text), manifest, manifest["step"], folder)
    except (SafetensorError, ValueError, yaml.YAMLError) as error:
        raise _damaged(folder, MODEL, str(error)) from error


def read_training_state(path: Path | str) -> Any:
    """The training state at `path` (found as by `read_checkpoint`), on the CPU; raises `CheckpointError`."""
    folder = _resolve(Path(path))
    data = _read_verified(folder, TRAINING, _read_manifest(folder))
    try:
        return decode_state(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(folder, TRAINING, str(error)) from error


def encode_config(config: Mapping[str, Any]) -> bytes:
    """A configuration of plain values as YAML; raises `CheckpointError` for anything else."""
    try:
        return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode()
    except yaml.YAMLError as error:
        raise CheckpointError(
            f"the configuration cannot be stored as YAML: {error}. Give plain dicts, lists, numbers and "
            f"strings."
        ) from error


def decode_config(data: bytes) -> dict[str, Any]:
    """The configuration in YAML bytes; raises `yaml.YAMLError` or `ValueError` when they hold no mapping."""
    config = yaml.safe_load(data)
    if not isinstance(config, dict):
        raise ValueError("the configuration is not a mapping")
    return config


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as JSON; raises `CheckpointError` for values JSON does not have (NaN, arrays, paths)."""
    try:
        return json.dumps(dict(manifest), indent=2, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the manifest cannot be stored as JSON: {error}. Give plain dicts, lists, finite numbers and "
            f"strings."
        ) from error


def _free_of_reserved(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    taken = sorted(RESERVED_MANIFEST_KEYS & set(manifest))
    if taken:
        raise CheckpointError(f"the manifest uses the reserved keys {taken}; name them otherwise")
    return manifest


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, whatever its white space, without the hashes it lists."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _resolve(path: Path) -> Path:
    """The step folder that `path` means."""
    if _STEP_NAME.fullmatch(path.name) or (path / MANIFEST).exists():
        return path
    run_folder = path.parent if path.name == FOLDER else path
    newest = latest_checkpoint(run_folder, training=False)
    if newest is None:
        raise CheckpointError(
            f"there is no checkpoint in {path}; give a run folder, its {FOLDER} folder or a step-XXXXXXXX "
            f"folder"
        )
    return newest


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(folder, MANIFEST))
    except ValueError as error:
        raise _damaged(folder, MANIFEST, str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(folder, MANIFEST, f"it is not a manifest of format {FORMAT}")
    if type(manifest.get("step")) is not int or not isinstance(manifest.get("sha256"), dict):
        raise _damaged(folder, MANIFEST, "step or sha256 is missing")
    if manifest["sha256"].get(MANIFEST) != _manifest_hash(manifest):
        raise _damaged(folder, MANIFEST, "its entries do not have the SHA-256 stored with them")
    return manifest


def _read_verified(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    content = _read(folder, name)
    if hashlib.sha256(content).hexdigest() != manifest["sha256"].get(name):
        raise _damaged(folder, name, f"its {len(content)} bytes do not have the SHA-256 in {MANIFEST}")
    return content


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _damaged(folder, name, error.strerror or str(error)) from error


def _damaged(folder: Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"cannot read {folder / name}: {reason}. Use another checkpoint of the run, or delete {folder} and "
        f"resume."
    )
