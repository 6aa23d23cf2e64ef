"""Noise processes and samplers: maths on tensors, no robots, no networks."""

from diffpolicy.diffusion.analytic import contraction, gaussian_denoiser
from diffpolicy.diffusion.ancestral import AncestralSampler
from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.guidance import guide, inpaint
from diffpolicy.diffusion.path import (
    Path,
    sample_path,
    step_distribution,
    step_log_probs,
    stochastic_steps,
    transitions,
)
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
from diffpolicy.diffusion.transition import (
    PUBLISHED_ETA,
    STEP_KINDS,
    StepDistribution,
    StepKind,
    StepRule,
    StepWeights,
    element_mean,
)
from diffpolicy.diffusion.tree import Tree, join_trees, sample_tree, select_leaves

__all__ = [
    "PREDICTIONS",
    "PUBLISHED_ETA",
    "SOLVERS",
    "STEP_KINDS",
    "AncestralSampler",
    "Denoiser",
    "DiffusionError",
    "GaussianProcess",
    "Path",
    "Prediction",
    "Sampler",
    "Solver",
    "StepDistribution",
    "StepKind",
    "StepRule",
    "StepWeights",
    "Tree",
    "contraction",
    "cosine_betas",
    "edm",
    "element_mean",
    "from_diffusers",
    "gaussian_denoiser",
    "guide",
    "inpaint",
    "join_trees",
    "leading",
    "linear_betas",
    "rectified_flow",
    "sample_path",
    "sample_tree",
    "select_leaves",
    "step_distribution",
    "step_log_probs",
    "stochastic_steps",
    "trailing",
    "transitions",
    "variance_preserving",
    "vp_betas",
]
