"""Networks: members side by side for single actions (stacked), denoisers of action chunks, encoders of pictures."""

from diffpolicy.networks.chunk_mlp import ChunkMLP
from diffpolicy.networks.denoisers import MLPDenoiser, ResidualDenoiser
from diffpolicy.networks.stacked import StackedLinear, StackedMLP, select_members
from diffpolicy.networks.unet1d import ConditionalUNet1D

__all__ = [
    "ChunkMLP",
    "ConditionalUNet1D",
    "MLPDenoiser",
    "ResidualDenoiser",
    "StackedLinear",
    "StackedMLP",
    "select_members",
]
