"""A short film of one episode, with a bar that shows its progress and every violating step."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import envs
from diffpolicy.evaluation.rollout import (
    Episode,
    Player,
    RolloutError,
    Tally,
    checked_action,
    require_unit_actions,
)
from diffpolicy.policies import Policy

Frame = NDArray[np.uint8]  # (H, W, 3)
# Called before the first step and after each one with the rewards and costs so far and whether the episode is over.
Shoot = Callable[[list[float], list[float], bool], None]

FRAMES_PER_SECOND = 25
MAX_SECONDS = 10.0
FILM_SIDE = 128  # [pixel] at most, of the frames of an animation in a log
SAFE = (0, 114, 178)  # Okabe-Ito blue and vermilion: told apart by everyone
VIOLATING = (213, 94, 0)


class VideoError(Exception):
    """A film that cannot be shot or written."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A filmed episode and its frames, the bar included."""

    episode: Episode
    frames: tuple[Frame, ...]


def record_video(
    policy: Policy,
    task: str,
    seed: int,
    path: str | Path,
    max_seconds: float = MAX_SECONDS,
    *,
    name: str | None = None,
) -> Recording:
    """Play one episode of `task`, write it to `path` as mp4 of at most `max_seconds`, return what was filmed.

    Long episodes run faster: only every k-th step is shown, but the bar holds every violating step. Raises
    VideoError if nothing can be written there, RolloutError as `rollout` does, and the error of `envs` where
    nothing can be drawn.
    """
    row = envs.task(task)
    every = max(1, -(-row.max_episode_steps // max(1, int(FRAMES_PER_SECOND * max_seconds) - 2)))
    environment: Any = envs.make(row.id, render_mode="rgb_array")
    frames: list[Frame] = []

    def shoot(rewards: list[float], costs: list[float], over: bool) -> None:
        if over or len(costs) % every == 0:
            text = (
                f"cost {sum(costs):g}" if row.score == "return" else f"best {max(rewards, default=0.0):.2f}"
            )
            frames.append(overlay(_even(environment.render()), costs, row.max_episode_steps, text))

    try:
        episode = _play(policy, environment, seed, name or type(policy).__name__, shoot)
    finally:
        environment.close()
    _write(Path(path), frames)
    return Recording(episode, tuple(frames))


def film(policy: Policy, task: str, seed: int, max_frames: int) -> list[Frame]:
    """Play one episode of `task` and return at most `max_frames` plain frames, evenly spaced, the last included.

    Raises as `record_video` does.
    """
    row = envs.task(task)
    every = max(1, -(-row.max_episode_steps // max(1, max_frames - 1)))
    environment: Any = envs.make(row.id, render_mode="rgb_array")
    frames: list[Frame] = []

    def shoot(rewards: list[float], costs: list[float], over: bool) -> None:
        if over or len(costs) % every == 0:
            frames.append(np.asarray(environment.render(), dtype=np.uint8))

    try:
        _play(policy, environment, seed, type(policy).__name__, shoot)
    finally:
        environment.close()
    return frames


def animation(frames: Sequence[Frame], *, frames_per_second: float = 12.0) -> bytes:
    """The frames as an animated GIF of at most 128 pixel a side, for logs; VideoError where there are none."""
    if not frames:
        raise VideoError("there are no frames for an animation")
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((FILM_SIDE, FILM_SIDE))
    buffer = io.BytesIO()
    pause = round(1000 / frames_per_second)
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=pause, loop=0)
    return buffer.getvalue()


def film_strip(frames: Sequence[Frame], count: int = 6) -> bytes:
    """`count` frames from first to last side by side, as PNG."""
    if not frames:
        raise VideoError("there are no frames for a film strip")
    chosen = [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    gap = np.full((chosen[0].shape[0], 4, 3), 255, dtype=np.uint8)
    parts = [part for frame in chosen for part in (frame, gap)][:-1]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts, axis=1)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def overlay(frame: Frame, costs: Sequence[float], horizon: int, text: str) -> Frame:
    """The frame (H, W, 3) with a `text` and a bar of the time so far: vermilion slices are steps that cost."""
    height, width = frame.shape[:2]
    bar = max(6, height // 32)
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - bar, width, height), fill=(235, 235, 235))
    edges = np.linspace(0, width, max(horizon, len(costs)) + 1)
    draw.rectangle((0, height - bar, edges[len(costs)], height), fill=SAFE)
    for step in np.flatnonzero(np.asarray(costs) > 0.0):
        right = max(edges[step + 1], edges[step] + 1)
        draw.rectangle((edges[step], height - bar, right, height), fill=VIOLATING)
    font = ImageFont.load_default(size=max(11, height // 18))
    box = draw.textbbox((6, 4), text, font=font)
    draw.rectangle(
        (box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=VIOLATING if costs and costs[-1] else SAFE
    )
    draw.text((6, 4), text, font=font, fill=(255, 255, 255))
    return np.asarray(picture)


def _play(policy: Policy, environment: Any, seed: int, label: str, shoot: Shoot) -> Episode:
    require_unit_actions(environment.action_space)
    observation, info = environment.reset(seed=seed)
    player, tally = Player(policy, [seed], label), Tally(1)
    rewards: list[float] = []
    costs: list[float] = []
    shoot(rewards, costs, False)
    while tally.running[0]:
        seen = {camera: np.asarray(picture)[None] for camera, picture in info.get("images", {}).items()}
        planned = player.action(np.asarray(observation)[None], seen or None)
        action = checked_action(planned, tally.running, [seed], label, len(costs))[0]
        observation, reward, terminated, truncated, info = environment.step(action)
        rewards.append(float(reward))
        costs.append(float(info["cost"]))
        if not np.isfinite([rewards[-1], costs[-1]]).all() or not np.isfinite(observation).all():
            raise RolloutError(
                f"the simulator gave a non-finite value at step {len(costs) - 1} with seed {seed}"
            )
        over = np.array([terminated or truncated])
        tally.add(np.array([reward]), np.array([info["cost"]]), terminated, over, info, player)
        shoot(rewards, costs, not tally.running[0])
    return tally.episodes([seed])[0]


def _even(frame: Any) -> Frame:
    """The frame cut to even sides, which the video format asks for."""
    picture = np.asarray(frame, dtype=np.uint8)
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


def _write(path: Path, frames: Sequence[Frame]) -> None:
    temporary = path.with_name(path.stem + ".part.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio.get_writer(
            temporary,
            fps=FRAMES_PER_SECOND,
            codec="libx264",
            pixelformat="yuv420p",  # what browsers and phones play
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "26", "-movflags", "+faststart"],
        )
        with writer:
            for frame in frames:
                writer.append_data(frame)
        temporary.replace(path)
    except OSError as error:
        raise VideoError(f"{path.name} cannot be written: {error}; name another folder") from error
