"""A short film of one episode, with a bar that shows its progress and every violating step."""

import io
from collections.abc import Sequence
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
    checked_action,
    require_unit_actions,
)
from diffpolicy.policies import Policy

Frame = NDArray[np.uint8]  # (H, W, 3)

FRAMES_PER_SECOND = 25
MAX_SECONDS = 10.0
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
    shown = max(1, int(FRAMES_PER_SECOND * max_seconds) - 2)  # beside the first and the last frame
    environment: Any = envs.make(row.id, render_mode="rgb_array")
    try:
        label = name or type(policy).__name__
        recording = _play(policy, environment, seed, row.max_episode_steps, shown, label)
    finally:
        environment.close()
    _write(Path(path), recording.frames)
    return recording


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


def overlay(frame: Frame, costs: Sequence[float], horizon: int) -> Frame:
    """The frame (H, W, 3) with the cost so far and a bar: vermilion slices are steps that cost."""
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
    text = f"cost {sum(costs):g}"
    font = ImageFont.load_default(size=max(11, height // 18))
    box = draw.textbbox((6, 4), text, font=font)
    draw.rectangle(
        (box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=VIOLATING if costs and costs[-1] else SAFE
    )
    draw.text((6, 4), text, font=font, fill=(255, 255, 255))
    return np.asarray(picture)


def _play(policy: Policy, environment: Any, seed: int, horizon: int, shown: int, label: str) -> Recording:
    every = max(1, -(-horizon // shown))
    require_unit_actions(environment.action_space)
    observation, _ = environment.reset(seed=seed)
    plan = Player(policy, [seed], label)
    rewards: list[float] = []
    costs: list[float] = []
    frames = [overlay(_even(environment.render()), costs, horizon)]
    over = terminated = False
    while not over:
        planned = plan.action(np.asarray(observation)[None])
        action = checked_action(planned, np.ones(1, dtype=bool), [seed], label, len(costs))[0]
        observation, reward, terminated, truncated, info = environment.step(action)
        rewards.append(float(reward))
        costs.append(float(info["cost"]))
        over = bool(terminated or truncated)
        if not np.isfinite([rewards[-1], costs[-1]]).all() or not np.isfinite(observation).all():
            raise RolloutError(
                f"the simulator gave a non-finite value at step {len(costs) - 1} with seed {seed}"
            )
        if over or len(costs) % every == 0:
            frames.append(overlay(_even(environment.render()), costs, horizon))
    violation = any(cost > 0.0 for cost in costs)
    episode = Episode(seed, sum(rewards), sum(costs), len(costs), bool(terminated), violation)
    return Recording(episode, tuple(frames))


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
