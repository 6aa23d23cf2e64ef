"""Alignment: fine-tuning denoisers on rewards, comparisons and demonstrations, of robots and images alike."""

from diffpolicy.alignment.advantages import (
    SCALES,
    Advantages,
    PromptBuffer,
    Scale,
    gae,
    group_advantages,
    leave_one_out,
    softmax_weights,
)
from diffpolicy.alignment.matching import Corruption, Matcher, Matching, errors, inner_levels, stratified
from diffpolicy.alignment.objective import Logs, Needs, Objective, Roles, role
from diffpolicy.alignment.samples import Pairs, Rated, Rollout

__all__ = [
    "SCALES",
    "Advantages",
    "Corruption",
    "Logs",
    "Matcher",
    "Matching",
    "Needs",
    "Objective",
    "Pairs",
    "PromptBuffer",
    "Rated",
    "Roles",
    "Rollout",
    "Scale",
    "errors",
    "gae",
    "group_advantages",
    "inner_levels",
    "leave_one_out",
    "role",
    "softmax_weights",
    "stratified",
]
