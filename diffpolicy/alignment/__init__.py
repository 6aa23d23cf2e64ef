"""Alignment: fine-tuning denoisers on rewards, comparisons and demonstrations, of robots and images alike."""

from diffpolicy.alignment.adapters import AdapterRoles
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
from diffpolicy.alignment.experience import Experience, Fixed, Gathered, Online, OnlineConfig, draw_prompts
from diffpolicy.alignment.matching import Corruption, Matcher, Matching, errors, inner_levels, stratified
from diffpolicy.alignment.model import Model, Prompts, Unprompted
from diffpolicy.alignment.monitor import Monitor
from diffpolicy.alignment.objective import (
    Logs,
    Needs,
    Objective,
    Owned,
    Part,
    Roles,
    StartPolicy,
    mean_logs,
    role,
)
from diffpolicy.alignment.recipes import build_experience, build_objective, online_config
from diffpolicy.alignment.report import write_report
from diffpolicy.alignment.reward import Reward, Rewards, rate
from diffpolicy.alignment.roles import EMA, OLD, REFERENCE, TRAIN, CopiedRoles, RoleBook
from diffpolicy.alignment.samples import Pairs, Prompted, Rated, Rollout, Samples, select, size
from diffpolicy.alignment.stopping import Look, StopRule
from diffpolicy.alignment.trainer import AlignConfig, Aligner, Decay, Term
from diffpolicy.alignment.tree import tree_advantages

__all__ = [
    "EMA",
    "OLD",
    "REFERENCE",
    "SCALES",
    "TRAIN",
    "AdapterRoles",
    "Advantages",
    "AlignConfig",
    "Aligner",
    "CopiedRoles",
    "Corruption",
    "Decay",
    "Experience",
    "Fixed",
    "Gathered",
    "Logs",
    "Look",
    "Matcher",
    "Matching",
    "Model",
    "Monitor",
    "Needs",
    "Objective",
    "Online",
    "OnlineConfig",
    "Owned",
    "Pairs",
    "Part",
    "PromptBuffer",
    "Prompted",
    "Prompts",
    "Rated",
    "Reward",
    "Rewards",
    "RoleBook",
    "Roles",
    "Rollout",
    "Samples",
    "Scale",
    "StartPolicy",
    "StopRule",
    "Term",
    "Unprompted",
    "build_experience",
    "build_objective",
    "draw_prompts",
    "errors",
    "gae",
    "group_advantages",
    "inner_levels",
    "leave_one_out",
    "mean_logs",
    "online_config",
    "rate",
    "role",
    "select",
    "size",
    "softmax_weights",
    "stratified",
    "tree_advantages",
    "write_report",
]
