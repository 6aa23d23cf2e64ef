"""Noise processes and samplers: maths on tensors, no robots, no networks."""

from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import AncestralSampler, Denoiser
from diffpolicy.diffusion.schedule import vp_betas

__all__ = ["AncestralSampler", "Denoiser", "GaussianProcess", "vp_betas"]
