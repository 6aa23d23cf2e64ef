"""Objectives, a file for each method."""

from diffpolicy.alignment.objectives.align_prop import AlignProp, AlignPropConfig
from diffpolicy.alignment.objectives.awm import AWM, WEIGHTINGS, AWMConfig, Weighting
from diffpolicy.alignment.objectives.d3po import D3PO, D3POConfig
from diffpolicy.alignment.objectives.dance_grpo import DanceGRPO, DanceGRPOConfig
from diffpolicy.alignment.objectives.ddpo import DDPO, DDPOConfig
from diffpolicy.alignment.objectives.diffusion_dpo import DiffusionDPO, DiffusionDPOConfig
from diffpolicy.alignment.objectives.distillation_dpo import DistillationDPO, DistillationDPOConfig
from diffpolicy.alignment.objectives.dpok import DPOK, DPOKConfig, value_network
from diffpolicy.alignment.objectives.draft_k import DRaFTK, DRaFTKConfig
from diffpolicy.alignment.objectives.draft_lv import DRaFTLV, DRaFTLVConfig
from diffpolicy.alignment.objectives.find import FIND, FINDConfig
from diffpolicy.alignment.objectives.flow_grpo import FlowGRPO, FlowGRPOConfig
from diffpolicy.alignment.objectives.nft import NFT, NFTConfig
from diffpolicy.alignment.objectives.refl import ReFL, ReFLConfig
from diffpolicy.alignment.objectives.rwr import RWR
from diffpolicy.alignment.objectives.sft import SFT

__all__ = [
    "AWM",
    "D3PO",
    "DDPO",
    "DPOK",
    "FIND",
    "NFT",
    "RWR",
    "SFT",
    "WEIGHTINGS",
    "AWMConfig",
    "AlignProp",
    "AlignPropConfig",
    "D3POConfig",
    "DDPOConfig",
    "DPOKConfig",
    "DRaFTK",
    "DRaFTKConfig",
    "DRaFTLV",
    "DRaFTLVConfig",
    "DanceGRPO",
    "DanceGRPOConfig",
    "DiffusionDPO",
    "DiffusionDPOConfig",
    "DistillationDPO",
    "DistillationDPOConfig",
    "FINDConfig",
    "FlowGRPO",
    "FlowGRPOConfig",
    "NFTConfig",
    "ReFL",
    "ReFLConfig",
    "Weighting",
    "value_network",
]
