"""What acts: diffusion policies, their training and their loading."""

from diffpolicy.policies.actors import ActorConfig, DiffusionActors
from diffpolicy.policies.arms import ChunkArm, parse_arm
from diffpolicy.policies.chunk_config import DiffusionConfig
from diffpolicy.policies.chunk_loading import load_chunk_model
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.diffusion_policy import DiffusionLearner
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.fisor import ACTORS, FisorLearner
from diffpolicy.policies.loading import available_arms, load_policy
from diffpolicy.policies.policy import ActionChunk, History, Memory, Observation, Plan, Policy
from diffpolicy.policies.selection import ARMS, RULES, Arm, CandidatePolicy
from diffpolicy.policies.transitions import FisorConfig

__all__ = [
    "ACTORS",
    "ARMS",
    "RULES",
    "ActionChunk",
    "ActorConfig",
    "Arm",
    "CandidatePolicy",
    "ChunkArm",
    "ChunkModel",
    "ChunkPolicy",
    "DiffusionActors",
    "DiffusionConfig",
    "DiffusionLearner",
    "FisorConfig",
    "FisorLearner",
    "History",
    "Memory",
    "Observation",
    "Plan",
    "Policy",
    "PolicyError",
    "available_arms",
    "load_chunk_model",
    "load_policy",
    "parse_arm",
]
