"""Networks: members side by side for single actions (stacked), denoisers of action chunks, encoders of pictures."""

from diffpolicy.networks.chunk_mlp import ChunkMLP
from diffpolicy.networks.denoisers import MLPDenoiser, ResidualDenoiser
from diffpolicy.networks.encoder import ResNetEncoder, ViTEncoder, crop_pictures, spatial_softmax
from diffpolicy.networks.errors import NetworkError
from diffpolicy.networks.stacked import StackedLinear, StackedMLP, select_members
from diffpolicy.networks.transformer import DiffusionTransformer
from diffpolicy.networks.unet1d import ConditionalUNet1D

__all__ = [
    "ChunkMLP",
    "ConditionalUNet1D",
    "DiffusionTransformer",
    "MLPDenoiser",
    "NetworkError",
    "ResNetEncoder",
    "ResidualDenoiser",
    "StackedLinear",
    "StackedMLP",
    "ViTEncoder",
    "crop_pictures",
    "select_members",
    "spatial_softmax",
]
