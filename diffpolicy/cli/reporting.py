"""Puts the parts of a report together: film, learning curves, the data's episodes, the learned feasible set."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import envs
from diffpolicy import evaluation, training
from diffpolicy.data import OfflineDataset
from diffpolicy.evaluation.figures import Curve, FeasibleSlice, infeasible_iou
from diffpolicy.evaluation.report import Extras
from diffpolicy.evaluation.report import write_report as write_html
from diffpolicy.evaluation.video import film_strip, record_video
from diffpolicy.policies import CandidatePolicy, Policy
from envs import point_robot

SLICES = (
    (0.5, math.pi / 4, "π/4"),
    (1.0, math.pi / 2, "π/2"),
    (1.5, math.pi / 4, "π/4"),
)  # of FISOR's figure
CURVES = ("feasibility/v_loss", "reward/v_loss", "actor/")


def write_report(
    result: evaluation.Evaluation,
    headline: str,
    policy: Policy,
    run: Path,
    dataset: OfflineDataset | None,
    folder: Path,
    sections: Sequence[str] = (),
) -> Path:
    """Write report.html and video.mp4 about the arm `headline`, played by `policy`, to `folder`; return the report.

    `run` is the training run, whose curves are shown; `sections` are further ones, of HTML.
    """
    episodes = None if dataset is None else (dataset.episode_returns.numpy(), dataset.episode_costs.numpy())
    film, video = None, folder / "video.mp4"
    try:
        film = film_strip(record_video(policy, result.task, result.seed, video, name=headline).frames)
    except envs.RenderingError as error:
        print(f"no video: {error}")
    feasible = []
    if isinstance(policy, CandidatePolicy) and result.task == point_robot.TASK.id:
        feasible = feasible_slices(policy)
    return write_html(
        result,
        folder / "report.html",
        subject=headline,
        extras=Extras(
            dataset=episodes,
            curves=curves(run),
            feasible=feasible,
            video=None if film is None else video,
            film_strip=film,
            certificate=json.loads((folder / "certificate.json").read_text()),
            sections=sections,
        ),
    )


def curves(run: Path) -> list[Curve]:
    """Return the learning curves of the training run in `run` that a reader wants to see."""
    if not (run / "checkpoints").is_dir():
        return []
    logged = training.read_curves(run)
    return [Curve(name, *points) for name, points in sorted(logged.items()) if name.startswith(CURVES)]


def feasible_slices(policy: CandidatePolicy) -> list[FeasibleSlice]:
    """Return the learned, the true and the naive (h <= 0) feasible set of the point robot on FISOR's three slices."""
    slices = []
    for speed, heading, label in SLICES:
        xs, ys, truth, observations = point_robot.feasible_grid(speed, heading)
        states = policy.standardizer.normalize(torch.from_numpy(observations).to(policy.device))
        with torch.no_grad():
            learned = policy.critics.state_values(states.unsqueeze(0))[0, 1].view(truth.shape).cpu().numpy()
        naive = point_robot.violation_from_observation(observations).reshape(truth.shape) <= 0
        slices.append(FeasibleSlice(f"v = {speed:g} m/s, θ = {label}", xs, ys, learned, truth, naive))
    return slices


def set_overlap(slices: list[FeasibleSlice]) -> tuple[float, float]:
    """Return the intersection over union with the true infeasible set, of the learned and of the naive one."""
    truth = np.concatenate([np.ravel(part.truth) for part in slices])
    learned = np.concatenate([np.ravel(part.learned) for part in slices]) <= 0
    naive = np.concatenate([np.ravel(part.naive) for part in slices if part.naive is not None])
    return infeasible_iou(learned, truth), infeasible_iou(naive, truth)
