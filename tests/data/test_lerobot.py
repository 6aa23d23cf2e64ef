from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffpolicy import data
from diffpolicy.data import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Arrays = dict[str, Any]
LENGTHS = (4, 3, 5)
FILES = {"chunk-000/file-000": (0, 7), "chunk-000/file-001": (7, 9), "chunk-001/file-000": (9, 12)}
VIDEOS = {"chunk-000/file-000": (0, 7), "chunk-000/file-001": (7, 12)}
FPS = 10


def png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path: Path, columns: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def lists(values: Any) -> Any:
    flat = pa.array(values.astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


@pytest.fixture
def lerobot(demonstrations: Arrays, tmp_path: Path) -> Path:
    """A dataset of three episodes in three files, the last episode lying in two of them."""
    folder = tmp_path / "lerobot"
    episode = np.repeat(np.arange(3), LENGTHS)
    frame = np.concatenate([np.arange(length) for length in LENGTHS])
    for name, (low, high) in FILES.items():
        rows = slice(low, high)
        write_table(
            folder / f"data/{name}.parquet",
            {
                "observation.state": lists(demonstrations["state"][rows]),
                "observation.image": [
                    {"bytes": png(each), "path": None} for each in demonstrations["img"][rows]
                ],
                "action": pa.array(demonstrations["action"][rows].tolist()),
                "episode_index": episode[rows],
                "frame_index": frame[rows],
                "timestamp": (frame[rows] / FPS).astype(np.float32),
                "next.reward": np.arange(low, high, dtype=np.float32),
                "next.done": frame[rows] == np.asarray(LENGTHS)[episode[rows]] - 1,
                "index": np.arange(low, high),
                "task_index": np.zeros(high - low, np.int64),
            },
        )
    video = "videos/observation.images.top/"
    write_table(
        folder / "meta/episodes/chunk-000/file-000.parquet",
        {
            "episode_index": [0, 1, 2],
            "length": LENGTHS,
            f"{video}chunk_index": [0, 0, 0],
            f"{video}file_index": [0, 0, 1],
            f"{video}from_timestamp": [0.0, 4 / FPS, 0.0],
            f"{video}to_timestamp": [4 / FPS, 7 / FPS, 5 / FPS],
        },
    )
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "observation.image": {"dtype": "image", "shape": [6, 8, 3], "names": ["height", "width", "channel"]},
        "observation.images.top": {
            "dtype": "video",
            "shape": [32, 48, 3],
            "names": ["height", "width", "channel"],
        },
        "action": {"dtype": "float32", "shape": [2], "names": None},
    }
    info = {
        "codebase_version": "v3.0",
        "total_episodes": 3,
        "total_frames": 12,
        "fps": FPS,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


def film(folder: Path) -> None:
    """Videos in which frame i of the dataset is grey of value 10 + 20 i."""
    imageio = pytest.importorskip("imageio_ffmpeg")
    for name, (low, high) in VIDEOS.items():
        path = folder / "videos/observation.images.top" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio.write_frames(str(path), (48, 32), fps=FPS, macro_block_size=1)
        writer.send(None)
        for step in range(low, high):
            writer.send(np.full((32, 48, 3), 10 + 20 * step, np.uint8))
        writer.close()


def test_files_are_joined_to_episodes(lerobot: Path, demonstrations: Arrays) -> None:
    assert data.check(lerobot) == []
    dataset = data.load(lerobot)
    assert np.array_equal(dataset.observations[dataset.rows].numpy(), demonstrations["state"])
    assert np.array_equal(dataset.actions.numpy(), demonstrations["action"])
    assert dataset.episode_ends.tolist() == [4, 7, 12]
    assert dataset.rewards.tolist() == list(range(12))
    assert dataset.timeouts.nonzero().flatten().tolist() == [3, 6, 11]
    assert not dataset.terminals.any()
    assert data.load(lerobot, ["observation.state[1:]"]).observation_size == 2


def test_pictures_in_the_files(lerobot: Path, demonstrations: Arrays) -> None:
    pictures = data.load(lerobot, images=["observation.image"]).images["camera"]
    assert np.array_equal(pictures[np.arange(12)], demonstrations["img"])


def test_frames_of_videos(lerobot: Path) -> None:
    film(lerobot)
    pictures = data.load(lerobot, images=["top"]).images["top"]
    assert pictures.shape == (12, 32, 48, 3)
    grey = pictures[np.arange(12)].reshape(12, -1).mean(1)
    assert grey == pytest.approx(10 + 20 * np.arange(12), abs=3)
    assert np.array_equal(data.load(lerobot, images=["observation.images.top"]).images["top"], pictures)


def test_incomplete_videos_are_named(lerobot: Path) -> None:
    film(lerobot)
    short = lerobot / "videos/observation.images.top/chunk-000/file-000.mp4"
    (lerobot / "videos/observation.images.top/chunk-000/file-001.mp4").replace(short)
    with pytest.raises(DataError, match=r"chunk-000/file-001.mp4 is missing: the copy is incomplete"):
        data.load(lerobot, images=["observation.images.top"])
    film(lerobot)
    (lerobot / "videos/observation.images.top/chunk-000/file-001.mp4").replace(short)
    film_again = lerobot / "videos/observation.images.top/chunk-000/file-001.mp4"
    film_again.write_bytes(short.read_bytes())
    with pytest.raises(DataError, match=r"10 pictures were decoded, 12 were expected"):
        data.load(lerobot, images=["observation.images.top"])


def test_a_damaged_video_is_named(lerobot: Path) -> None:
    film(lerobot)
    for name in ("file-001.mp4", "file-000.mp4"):
        (lerobot / "videos/observation.images.top/chunk-000" / name).write_bytes(b"no video")
        with pytest.raises(DataError, match=f"{name}: ffmpeg cannot decode this video"):
            data.load(lerobot, images=["top"])


def test_a_damaged_picture_is_named(lerobot: Path) -> None:
    path = lerobot / "data/chunk-001/file-000.parquet"
    table = parquet.read_table(path)
    place = table.schema.get_field_index("observation.image")
    broken = [{"bytes": b"\x89PNG\r\n\x1a\n", "path": None}] * len(table)
    parquet.write_table(table.set_column(place, "observation.image", [broken]), path)
    with pytest.raises(DataError, match=r"observation.image: the pictures cannot be decoded") as raised:
        data.load(lerobot, images=["camera"])
    assert str(raised.value).count("\n") == 1


def test_without_the_pyarrow_package(lerobot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    (problem,) = data.check(lerobot)
    assert "pip install 'diffpolicy[formats]'" in problem.message


def change(folder: Path, **values: Any) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(folder: Path, **values: Any) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    for name, column in values.items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place)
        if column is not None:
            table = table.add_column(place, name, [column])
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: change(folder, codebase_version="v2.1"),
            "is a LeRobot dataset v2.1; convert it to v3.0",
        ),
        (lambda folder: change(folder, total_frames=20), "holds 12 of 20 frames: the copy is incomplete"),
        (lambda folder: change(folder, total_frames="many"), "cannot be read as a LeRobot dataset"),
        (lambda folder: (folder / "meta/info.json").write_text("[]"), "cannot be read as a LeRobot dataset"),
        (
            lambda folder: (folder / "meta/info.json").write_bytes(b"\xff{"),
            "cannot be read as a LeRobot dataset",
        ),
        (lambda folder: rewrite(folder, action=None), "action: this key is missing"),
        (lambda folder: rewrite(folder, frame_index=np.arange(7)), "frame_index: does not count up from 0"),
        (lambda folder: rewrite(folder, episode_index=[5] * 4 + [1] * 3), "episode_index: decreases (row 4)"),
        (lambda folder: rewrite(folder, action=pa.array([[0.0, 1]] * 6 + [None])), "rows without a value"),
        (
            lambda folder: rewrite(folder, action=pa.array([[0.0, 1]] * 6 + [[0.0]])),
            "rows have different sizes",
        ),
        (
            lambda folder: rewrite(folder, action=pa.array([[0.0, 1]] * 6 + [[0.0, None]])),
            "rows without a value",
        ),
        (
            lambda folder: rewrite(folder, action=pa.array([[0.0]] * 7)),
            "rows of the files have different sizes",
        ),
        (lambda folder: rewrite(folder, action=pa.array([["a", "b"]] * 7)), "action: "),
        (lambda folder: rewrite(folder, action=pa.array([[0, np.nan]] * 7)), "action: NaN or infinite"),
        (lambda folder: (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (
            lambda folder: [path.unlink() for path in folder.glob("data/*/*")],
            "holds no chunk-000/file-000.parquet",
        ),
    ],
)
def test_what_is_wrong_is_named(lerobot: Path, spoil: Any, message: str) -> None:
    spoil(lerobot)
    problems = [str(problem) for problem in data.check(lerobot)]
    assert any(message in problem for problem in problems), problems
    assert all(problem.count("\n") == 0 for problem in problems)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            ["observation.images.wrist"],
            "there are no pictures of this name; the dataset has observation.image, ",
        ),
        (["action"], "there are no pictures of this name"),
        (["observation.images.top"], "chunk-000/file-000.mp4 is missing"),
    ],
)
def test_pictures_that_are_not_there(lerobot: Path, images: list[str], message: str) -> None:
    with pytest.raises(DataError) as raised:
        data.load(lerobot, images=images)
    assert message in str(raised.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=20), cut=st.floats(0.3, 1)
)
def test_damaged_files_never_raise(lerobot: Path, flips: list[tuple[int, int]], cut: float) -> None:
    path = lerobot / "data/chunk-000/file-001.parquet"
    sound = path.read_bytes()
    content = bytearray(sound)
    for position, byte in flips:
        content[position % len(content)] = byte
    path.write_bytes(content[: int(cut * len(content))])
    problems = data.check(lerobot)
    path.write_bytes(sound)
    assert all(str(problem).count("\n") == 0 for problem in problems)
