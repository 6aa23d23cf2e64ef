"""Noise processes and samplers: maths on tensors, no robots, no networks."""

from diffpolicy.diffusion.analytic import contraction, gaussian_denoiser
from diffpolicy.diffusion.ancestral import AncestralSampler
from diffpolicy.diffusion.guidance import guide, inpaint
from diffpolicy.diffusion.process import PREDICTIONS, GaussianProcess, Prediction
from diffpolicy.diffusion.sampler import SOLVERS, Denoiser, Sampler, Solver
from diffpolicy.diffusion.schedule import (
    cosine_betas,
    edm,
    from_diffusers,
    leading,
    linear_betas,
    rectified_flow,
    trailing,
    variance_preserving,
    vp_betas,
)

__all__ = [
    "PREDICTIONS",
    "SOLVERS",
    "AncestralSampler",
    "Denoiser",
    "GaussianProcess",
    "Prediction",
    "Sampler",
    "Solver",
    "contraction",
    "cosine_betas",
    "edm",
    "from_diffusers",
    "gaussian_denoiser",
    "guide",
    "inpaint",
    "leading",
    "linear_betas",
    "rectified_flow",
    "trailing",
    "variance_preserving",
    "vp_betas",
]
