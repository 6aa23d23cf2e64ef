"""Stacked networks: several members (seeds, arms, twins) side by side in one batched matrix product."""

from diffpolicy.networks.denoisers import MLPDenoiser, ResidualDenoiser
from diffpolicy.networks.stacked import StackedLinear, StackedMLP, select_members

__all__ = ["MLPDenoiser", "ResidualDenoiser", "StackedLinear", "StackedMLP", "select_members"]
