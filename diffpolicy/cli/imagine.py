"""Films of what a world model imagines, beside what really came of the same actions."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor

import envs
from diffpolicy.cli.errors import ConfigError
from diffpolicy.training.logging import CurveWriter
from envs import point_robot
from world_models import FrameWindows, PixelWorldModel, StateWorldModel, Windows, advance
from world_models.pixel_assessment import drawn

Frame = NDArray[np.uint8]  # (H, W, 3)

TILE = 128  # [pixel] at least, of a picture's shorter side
GAP = 4  # [pixel] of white between pictures
SHOWN = 8  # moments in a strip
COLUMNS = 6  # of an observation, in a plot
DPI = 120


@dataclass(frozen=True)
class FilmConfig:
    """Films show `starts` moments of unseen episodes side by side, for up to `steps` imagined ones."""

    starts: int = 4
    steps: int = 30
    frames_per_second: float = 10.0

    def __post_init__(self) -> None:
        # GIF counts the time of a frame in hundredths of a second, in two bytes.
        if self.starts < 0 or self.steps < 1 or not 0.01 <= self.frames_per_second <= 100.0:
            raise ConfigError("film needs starts >= 0, steps >= 1 and frames_per_second from 0.01 to 100")


class Film(NamedTuple):
    """Pictures (T + 1, K, H, W, 3) uint8 of K roll-outs, `real` and `imagined`; the first is real in both."""

    real: Frame
    imagined: Frame
    frames_per_second: float

    def gif(self) -> bytes:
        """Return an animation: reality above, imagination below, a column for each roll-out."""
        pictures = [
            Image.fromarray(_grid([list(map(_enlarged, each)) for each in moment]))
            for moment in zip(self.real, self.imagined, strict=True)
        ]
        buffer = io.BytesIO()
        pause = round(1000 / self.frames_per_second)
        pictures[0].save(
            buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=pause, loop=0
        )
        return buffer.getvalue()

    def strip(self) -> bytes:
        """Return a PNG: for each roll-out a row of reality and one of imagination, time to the right."""
        moments = np.unique(np.linspace(0, len(self.real) - 1, SHOWN).round().astype(int))
        rows = [
            [_enlarged(column[moment, number]) for moment in moments]
            for number in range(self.real.shape[1])
            for column in (self.real, self.imagined)
        ]
        buffer = io.BytesIO()
        Image.fromarray(_grid(rows)).save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()


@torch.no_grad()
def film_pixels(model: PixelWorldModel, windows: FrameWindows, config: FilmConfig) -> Film:
    """Return what a model of pixels imagines under the real actions, from the same moments every time."""
    steps = windows.longest(config.steps)
    starts = drawn(windows, steps, config.starts, seed=0)
    window, generator = windows.window(starts), torch.Generator(starts.device).manual_seed(0)
    imagined = [window.observations[:, -1]]
    for step in range(steps):
        imagined.append(model.next_frames(window, generator))
        window = advance(window, imagined[-1], windows.actions[starts + step + 1])
    real = torch.stack([windows.frames[starts + step] for step in range(steps + 1)])
    return Film(real.cpu().numpy(), torch.stack(imagined).cpu().numpy(), config.frames_per_second)


class Tracks(NamedTuple):
    """Observations (T + 1, K, O) of K roll-outs, `real` and `imagined`; the first is real in both."""

    real: Tensor
    imagined: Tensor

    def film(self, draw: Callable[[NDArray[Any]], Frame], frames_per_second: float) -> Film:
        """Return the film of the roll-outs, each observation (O,) drawn by `draw`."""
        real, imagined = (
            np.stack([np.stack([draw(one) for one in moment]) for moment in each.double().numpy()])
            for each in (self.real, self.imagined)
        )
        return Film(real, imagined, frames_per_second)

    def plot(self) -> Figure:
        """Return the columns that change most, real and imagined, one panel each for the first roll-out."""
        change = self.real.diff(dim=0).square().mean((0, 1)) / self.real.var((0, 1)).clamp(min=1e-12)
        columns = change.argsort(descending=True)[:COLUMNS].sort().values.tolist()
        figure = Figure(figsize=(9.0, 5.0), layout="constrained")
        for number, column in enumerate(columns, start=1):
            axes = figure.add_subplot(2, -(-len(columns) // 2), number)
            for name, style, each in (("real", "-", self.real), ("imagined", "--", self.imagined)):
                axes.plot(each[:, 0, column].tolist(), style, label=name)
            axes.set(title=f"column {column}", xlabel="steps")
        figure.axes[0].legend()
        return figure


@torch.no_grad()
def track_states(model: StateWorldModel, windows: Windows, starts: Tensor, steps: int) -> Tracks:
    """Return what a model of states imagines from transitions `starts` (K,) under the `steps` real actions."""
    window, generator = windows.window(starts), torch.Generator(starts.device).manual_seed(0)
    member = torch.arange(len(starts), device=starts.device) % model.members
    real, imagined = [window.observations[:, -1]], [window.observations[:, -1]]
    for step in range(steps):
        imagined.append(model.imagine(window, member, generator).observations)
        real.append(windows.outcome(starts + step).next_observations)
        following = (starts + step + 1).clamp(max=len(windows) - 1)
        window = advance(window, imagined[-1], windows.actions[following])
    return Tracks(torch.stack(real).cpu(), torch.stack(imagined).cpu())


def drawer(task: envs.Task) -> Callable[[NDArray[Any]], Frame] | None:
    """Return what draws an observation (O,) of a task, None where an observation does not say all of a scene."""
    if task.id == "PushT-v0":
        environment: Any = envs.make(task.id, render_mode="rgb_array")

        def scene(observation: NDArray[Any]) -> Frame:
            environment.reset(options={"state": observation})
            picture: Frame = environment.render()
            return picture

        return scene
    if task.id == point_robot.TASK.id:

        def robot(observation: NDArray[Any]) -> Frame:
            x, y, speed, cosine, sine = observation[:5]
            state = np.array([x, y, speed, np.arctan2(sine, cosine)])
            return point_robot.draw(state, state[None, :2], TILE)

        return robot
    return None


def keep(film: Film, run: Path | str, name: str, step: int, console: Console) -> None:
    """Write a film into the folder `run` as <name>.gif and <name>.png, and into its log after update `step`."""
    animation = film.gif()
    for suffix, content in ((".gif", animation), (".png", film.strip())):
        (Path(run) / (name + suffix)).write_bytes(content)
    curves = CurveWriter(run, step)
    curves.add_film(name, animation, step)
    curves.close()
    console.print(f"film:     {Path(run) / (name + '.gif')}, real above imagined; .png for paper")


def _grid(rows: Sequence[Sequence[Frame]]) -> Frame:
    """Return pictures of one size in rows, with gaps between them."""
    height, width = rows[0][0].shape[:2]
    canvas = np.full(
        (len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = row * (height + GAP), column * (width + GAP)
            canvas[top : top + height, left : left + width] = picture
    return canvas


def _enlarged(picture: Frame) -> Frame:
    """Return the picture with each pixel repeated until it is large enough to see."""
    times = -(-TILE // min(picture.shape[:2]))
    return np.asarray(picture.repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)
