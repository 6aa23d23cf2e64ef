"""What acts: diffusion policies, their training and their loading."""

from diffpolicy.policies.actors import ActorConfig, DiffusionActors
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
    "DiffusionActors",
    "FisorConfig",
    "FisorLearner",
    "History",
    "Memory",
    "Observation",
    "Plan",
    "Policy",
    "PolicyError",
    "available_arms",
    "load_policy",
]
