"""Decodes pictures once into a memory-mapped file, so that training reads them at the disk's speed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .schema import DataError

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where decoded pictures are kept: DIFFPOLICY_CACHE, or diffpolicy in the user's cache folder."""
    named = os.environ.get("DIFFPOLICY_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffpolicy"


def fingerprint(files: Iterable[Path], key: str) -> str:
    """Names the pictures `key` of some files: 32 hexadecimal digits that change when a file does.

    Sizes and times stand for the contents, so that a hundred gigabytes need not be read to find their cache.
    """
    digest = hashlib.sha256(key.encode())
    for path in sorted(files):
        status = path.stat()
        digest.update(f"\n{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def cached(name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The memory-mapped pictures (N, H, W, 3) of a `fingerprint`, made from `blocks` unless they are there.

    The file appears whole or not at all. Raises DataError when it cannot be written, or when the blocks cannot
    be decoded or hold another number of pictures.
    """
    path = cache_folder() / "images" / f"{name}.npy"
    if not path.exists():
        size = int(np.prod(shape, dtype=np.int64))
        _log.info("decoding %d pictures into %s (%.1f GB, once)", shape[0], path, size / 1e9)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(partial, shape, blocks)
            partial.replace(path)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"decoded pictures ({size / 1e9:.1f} GB) could not be kept in {path.parent}: {reason}; "
                f"name another folder in DIFFPOLICY_CACHE"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # its folder may be what could not be written
                partial.unlink(missing_ok=True)
    pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    if pictures.shape != shape:
        raise DataError(
            f"{path} holds pictures of shape {pictures.shape}, not {shape}: delete it, and they are decoded again"
        )
    return pictures


def _write(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> None:
    # Written, not mapped: a full disk is an OSError for the one and kills the process for the other.
    rows = 0
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in _decoded(blocks):
            if block.shape[1:] != shape[1:]:
                raise DataError(f"pictures of shape {block.shape[1:]} among those of shape {shape[1:]}")
            rows += len(block)
            file.write(np.ascontiguousarray(block).data)
        os.fsync(file.fileno())
    if rows != shape[0]:
        raise DataError(f"{rows} pictures were decoded, {shape[0]} were expected")


def _decoded(blocks: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The blocks; whatever fails in making one is the pictures' fault, not that of the file written."""
    try:
        yield from blocks
    except DataError:
        raise
    except Exception as error:
        detail = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"the pictures cannot be decoded (truncated or damaged): {detail}") from error
