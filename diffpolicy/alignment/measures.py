"""What tells an aligned denoiser from one that has found a hole in its reward: distances and spreads of samples."""

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.objective import Roles, role
from diffpolicy.alignment.roles import REFERENCE, TRAIN
from diffpolicy.alignment.samples import chunks, rows
from diffpolicy.training.errors import FeedbackError

LOST = "samples are no longer finite. Go back to an earlier checkpoint and lower the learning rate"


def manifold_distance(samples: Tensor, real: Tensor, at_once: int = 1024) -> float:
    """Return the mean Euclidean distance of samples (N, *S) to the nearest of real ones (M, *S).

    At most `at_once` real samples are compared at a time. Distances are exact differences: those made of scalar
    products lose the small ones.

    Raises:
        ValueError: if there are none of either, or their shapes differ.
    """
    if not len(samples) or not len(real) or samples.shape[1:] != real.shape[1:]:
        raise ValueError(
            "distances to the nearest real sample need samples and real samples of one shape, got "
            f"{tuple(samples.shape)} and {tuple(real.shape)}"
        )
    flat = samples.flatten(1).float()
    nearest = torch.full((len(flat),), torch.inf, device=flat.device)
    for index in chunks(len(real), at_once):
        some = rows(real, index).flatten(1).to(flat)
        nearest = nearest.minimum(_distances(flat, some).amin(dim=1))
    return _finite(nearest.double().mean().item(), "the distance to the nearest real sample")


def diversity(samples: Tensor, group: Tensor | None = None) -> float:
    """Return the mean Euclidean distance of two samples of (N, *S), of one group if `group` (N,) int64 is given.

    Within groups it says whether one prompt still has many answers; different prompts alone keep samples apart.

    Raises:
        ValueError: if no two samples can be compared.
    """
    group = torch.zeros(len(samples), dtype=torch.int64) if group is None else group.cpu()
    flat, total, pairs = samples.flatten(1).float(), 0.0, 0
    for name in torch.unique(group).tolist():
        own = flat[(group == name).nonzero()[:, 0].to(flat.device)]
        total += _distances(own, own).double().sum().item()
        pairs += len(own) * (len(own) - 1)
    if not pairs:
        raise ValueError(
            f"diversity compares two samples of a group, and none of {len(samples)} has another in its group"
        )
    return _finite(total / pairs, "the distance between samples")


@torch.no_grad()
def reference_distance(
    matcher: Matcher, roles: Roles, clean: Tensor, condition: object, generator: torch.Generator
) -> float:
    """Return `mean |p_train - p_reference|^2` on clean samples (N, *S), noised to the matcher's levels.

    In velocities or noise, weighted by level, it is the KL divergence of the two paths; its root is the x-axis of
    Gao et al. 2023, where gold rises first and falls later.
    """
    total = 0.0
    for each in matcher.matchings(clean, condition, generator):
        trained, reference = each.constant(role(roles, TRAIN)), each.constant(role(roles, REFERENCE))
        total += each.distance(trained, reference).double().mean().item()
    return _finite(total / matcher.draws, "the distance to the reference")


def require_finite(samples: Tensor) -> None:
    """Raise FeedbackError if samples (N, *S) are not all finite numbers."""
    if not torch.isfinite(samples).all():
        raise FeedbackError(LOST)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """Return the distances (N, M) of points (N, D) and (M, D)."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _finite(value: float, name: str) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise FeedbackError(f"{name} is {value}: {LOST}")
    return value
