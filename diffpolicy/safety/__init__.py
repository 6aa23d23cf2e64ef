"""Feasibility: which states and actions can be kept safe, and what follows for learning."""

from diffpolicy.safety.critics import KINDS, CriticBatch, CriticConfig, Critics
from diffpolicy.safety.errors import SafetyError
from diffpolicy.safety.feasibility import behaviour_values, feasible_target, return_target, violation_values
from diffpolicy.safety.weights import WEIGHTS, Value, Values, WeightConfig

__all__ = [
    "KINDS",
    "WEIGHTS",
    "CriticBatch",
    "CriticConfig",
    "Critics",
    "SafetyError",
    "Value",
    "Values",
    "WeightConfig",
    "behaviour_values",
    "feasible_target",
    "return_target",
    "violation_values",
]
