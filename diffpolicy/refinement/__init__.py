"""Refinement: policies made better in a frozen world model, through `diffpolicy.alignment`, and the gate after it."""

from diffpolicy.refinement.arms import (
    ARMS,
    Arm,
    ArmName,
    Lagrangian,
    LagrangianConfig,
    RewardOnly,
    Split,
)
from diffpolicy.refinement.branches import Branches, play_branches
from diffpolicy.refinement.episodes import (
    Confusion,
    ImaginedEpisodes,
    episodes_env,
    first_moments,
    imagine_episodes,
    known_uncertainty,
    replay_confusion,
    windows_of,
)
from diffpolicy.refinement.errors import RefinementError, RefusedError
from diffpolicy.refinement.gate import (
    GateConfig,
    RealEpisodes,
    Release,
    check_data,
    check_length,
    check_start,
    judge,
)
from diffpolicy.refinement.imagination import Imagination, ImaginationConfig
from diffpolicy.refinement.pictures import PictureCloneConfig, picture_cloner, picture_values
from diffpolicy.refinement.recipes import CloneConfig, RefineConfig, cloner, refined_network, refiner
from diffpolicy.refinement.values import BranchValueConfig, BranchValues

__all__ = [
    "ARMS",
    "Arm",
    "ArmName",
    "BranchValueConfig",
    "BranchValues",
    "Branches",
    "CloneConfig",
    "Confusion",
    "GateConfig",
    "Imagination",
    "ImaginationConfig",
    "ImaginedEpisodes",
    "Lagrangian",
    "LagrangianConfig",
    "PictureCloneConfig",
    "RealEpisodes",
    "RefineConfig",
    "RefinementError",
    "RefusedError",
    "Release",
    "RewardOnly",
    "Split",
    "check_data",
    "check_length",
    "check_start",
    "cloner",
    "episodes_env",
    "first_moments",
    "imagine_episodes",
    "judge",
    "known_uncertainty",
    "picture_cloner",
    "picture_values",
    "play_branches",
    "refined_network",
    "refiner",
    "replay_confusion",
    "windows_of",
]
