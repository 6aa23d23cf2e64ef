"""How much an HDF5 file can hold."""

from __future__ import annotations

from typing import Any

LARGEST_COMPRESSION = 1100
"""Deflate cannot shrink data further than about 1032 times: a file that claims more is damaged."""

TOO_MUCH = "more than this file can hold"


def claims_too_much(node: Any) -> bool:
    """Whether an HDF5 dataset says it is larger than its file can hold; no memory is set aside for it."""
    return int(node.nbytes) > LARGEST_COMPRESSION * int(node.file.id.get_filesize())
