"""Diffusion world models, and the environments imagined in them."""

from world_models.config import KINDS, DiffusionSteps, Kind, WorldModelConfig
from world_models.errors import WorldModelError
from world_models.imagined_env import ImaginationConfig, ImaginedEnv
from world_models.learner import WorldModelLearner, load_world_model
from world_models.state import Imagined, StateWorldModel
from world_models.windows import Outcome, Window, Windows, advance

__all__ = [
    "KINDS",
    "DiffusionSteps",
    "ImaginationConfig",
    "Imagined",
    "ImaginedEnv",
    "Kind",
    "Outcome",
    "StateWorldModel",
    "Window",
    "Windows",
    "WorldModelConfig",
    "WorldModelError",
    "WorldModelLearner",
    "advance",
    "load_world_model",
]
