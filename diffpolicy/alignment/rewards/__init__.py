"""Rewards of images, and rewards made of others."""

from diffpolicy.alignment.rewards.aesthetic import AestheticReward, ScoreHead
from diffpolicy.alignment.rewards.classifier import ClassifierReward
from diffpolicy.alignment.rewards.clip import CLIP, CLIPReward, HPSReward, PickScore
from diffpolicy.alignment.rewards.combined import Capped, Pessimistic, RewardSet
from diffpolicy.alignment.rewards.http import HTTPReward
from diffpolicy.alignment.rewards.image_reward import ImageReward
from diffpolicy.alignment.rewards.images import as_bytes, prepare
from diffpolicy.alignment.rewards.jpeg import JPEGSize
from diffpolicy.alignment.rewards.server import serve_reward

__all__ = [
    "CLIP",
    "AestheticReward",
    "CLIPReward",
    "Capped",
    "ClassifierReward",
    "HPSReward",
    "HTTPReward",
    "ImageReward",
    "JPEGSize",
    "Pessimistic",
    "PickScore",
    "RewardSet",
    "ScoreHead",
    "as_bytes",
    "prepare",
    "serve_reward",
]
