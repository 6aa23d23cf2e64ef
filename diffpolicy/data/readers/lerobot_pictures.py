"""Pictures of LeRobot datasets: PNG or JPEG bytes in the parquet files, or frames of videos."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..pictures import Pictures, picture_key
from ..schema import DataError

BLOCK = 64
_NUMBER = re.compile(r"chunk-(\d+)/file-(\d+)\.\w+")


class Film(NamedTuple):
    """Pictures to be decoded, and the files that they come from."""

    pictures: Pictures
    files: list[Path]


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The files chunk-NNN/file-NNN.SUFFIX of a folder in the order of their numbers; DataError for none."""
    paths = {path: _NUMBER.search(path.as_posix()) for path in folder.glob(f"chunk-*/file-*.{suffix}")}
    order = {path: (int(match[1]), int(match[2])) for path, match in paths.items() if match}
    if not order:
        raise DataError(f"{folder.name} holds no chunk-000/file-000.{suffix}: the copy is incomplete")
    return sorted(order, key=order.__getitem__)


def film(
    parquet: Any, folder: Path, info: Mapping[str, Any], name: str, lengths: Sequence[int]
) -> tuple[str, Film]:
    """The key and pictures that a name means, for all steps of episodes of these lengths; DataError for none."""
    kinds = {key: feature["dtype"] for key, feature in info["features"].items()}
    known = [key for key, kind in kinds.items() if kind in ("image", "video")]
    key = picture_key(name, known)
    if key is None:
        raise DataError(
            f"{name}: there are no pictures of this name; the dataset has {', '.join(known) or 'none'}"
        )
    files: list[Path]
    if kinds[key] == "image":
        files = numbered(folder / "data", "parquet")
        blocks = _images(parquet, files, key)
    else:
        segments = _segments(parquet, folder, key, float(info["fps"]), lengths)
        # The tables say which frames belong to which step: other tables, other pictures.
        files = [
            *segments,
            *numbered(folder / "meta/episodes", "parquet"),
            *numbered(folder / "data", "parquet"),
        ]
        blocks = _frames(segments)
    first = next(blocks)
    return key, Film(Pictures((sum(lengths), *first.shape[1:]), _again(first, blocks)), files)


def _again(first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    yield first
    yield from rest


def _images(parquet: Any, files: Sequence[Path], key: str) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image

    for path in files:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=BLOCK, columns=[key]):
            pictures = []
            for row in batch.column(0).to_pylist():
                with Image.open(io.BytesIO(row["bytes"]), formats=("PNG", "JPEG")) as picture:
                    pictures.append(np.asarray(picture.convert("RGB")))
            yield np.stack(pictures)


def _segments(
    parquet: Any, folder: Path, key: str, fps: float, lengths: Sequence[int]
) -> dict[Path, list[tuple[int, int]]]:
    """Which frames of which video the episodes are, in their order: (first frame, number of frames)."""
    wanted = ("chunk_index", "file_index", "from_timestamp")
    fields = ["episode_index", *(f"videos/{key}/{name}" for name in wanted)]
    rows: list[tuple[int, int, int, float]] = []
    for path in numbered(folder / "meta/episodes", "parquet"):
        table = parquet.read_table(path, columns=fields)
        rows += zip(*(table.column(name).to_pylist() for name in fields), strict=True)
    if len(rows) != len(lengths):
        raise DataError(f"meta/episodes lists {len(rows)} episodes, the data holds {len(lengths)}")
    segments: dict[Path, list[tuple[int, int]]] = {}
    for (_, chunk, file, start), length in zip(sorted(rows), lengths, strict=True):
        path = folder / "videos" / key / f"chunk-{chunk:03d}" / f"file-{file:03d}.mp4"
        if not path.is_file():
            raise DataError(f"{path.relative_to(folder)} is missing: the copy is incomplete")
        segments.setdefault(path, []).append((round(start * fps), length))
    return segments


def _frames(segments: Mapping[Path, Sequence[tuple[int, int]]]) -> Iterator[NDArray[np.uint8]]:
    import imageio_ffmpeg  # type: ignore[import-untyped]

    for path, wanted in segments.items():
        # Every stored frame once, whatever its time stamp says; the format is given, so nothing else is probed.
        reader = imageio_ffmpeg.read_frames(
            str(path), input_params=["-f", "mp4"], output_params=["-fps_mode", "passthrough"]
        )
        try:
            width, height = next(reader)["size"]
        except (OSError, StopIteration) as error:
            raise DataError(f"{path.name}: ffmpeg cannot decode this video (truncated or damaged)") from error
        position = 0
        for start, length in wanted:
            if start < position:
                raise DataError(f"{path.name}: episodes overlap at frame {start}")
            for _ in range(start - position):
                next(reader, None)
            for low in range(0, length, BLOCK):
                frames = [frame for _, frame in zip(range(min(BLOCK, length - low)), reader, strict=False)]
                yield np.frombuffer(b"".join(frames), np.uint8).reshape(-1, height, width, 3)
            position = start + length
        reader.close()
