"""Diffusion world models, and the environments imagined in them."""

from world_models.config import KINDS, DiffusionSteps, Kind, WorldModelConfig
from world_models.errors import WorldModelError
from world_models.frames import FrameWindows
from world_models.imagined_env import ImaginedEnv, ImaginedEnvConfig
from world_models.learner import WorldModelLearner, load_world_model
from world_models.pixel import PixelWorldModel
from world_models.pixel_config import PixelConfig, PixelNoise
from world_models.pixel_learner import PixelLearner, load_pixel_world_model
from world_models.state import Imagined, StateWorldModel
from world_models.windows import FrameWindow, Outcome, Window, Windows, advance

__all__ = [
    "KINDS",
    "DiffusionSteps",
    "FrameWindow",
    "FrameWindows",
    "Imagined",
    "ImaginedEnv",
    "ImaginedEnvConfig",
    "Kind",
    "Outcome",
    "PixelConfig",
    "PixelLearner",
    "PixelNoise",
    "PixelWorldModel",
    "StateWorldModel",
    "Window",
    "Windows",
    "WorldModelConfig",
    "WorldModelError",
    "WorldModelLearner",
    "advance",
    "load_pixel_world_model",
    "load_world_model",
]
