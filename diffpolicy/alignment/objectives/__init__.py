"""Objectives, a file for each method."""

from diffpolicy.alignment.objectives.awm import AWM, WEIGHTINGS, AWMConfig, Weighting
from diffpolicy.alignment.objectives.diffusion_dpo import DiffusionDPO, DiffusionDPOConfig
from diffpolicy.alignment.objectives.nft import NFT, NFTConfig
from diffpolicy.alignment.objectives.rwr import RWR
from diffpolicy.alignment.objectives.sft import SFT

__all__ = [
    "AWM",
    "NFT",
    "RWR",
    "SFT",
    "WEIGHTINGS",
    "AWMConfig",
    "DiffusionDPO",
    "DiffusionDPOConfig",
    "NFTConfig",
    "Weighting",
]
