"""Makes safety-gymnasium 0.4.0 run on current Python, gymnasium and mujoco.

The package is pinned to gymnasium 0.28 and mujoco 2.3. Each function below mends one break and touches only
safety-gymnasium's own modules (the first also adds module names that gymnasium has dropped). Two of the five
breaks need no patch: its `registration.make` (break 3) relies on a removed field of `EnvSpec`, its viewer
(break 5) on a removed signature of gymnasium's, and neither is used: see `envs.dsrl.simulators` and
`envs.rendering`.
"""

import importlib
import sys
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class _HashableArray(np.ndarray[Any, np.dtype[Any]]):
    """An array that a dataclass accepts as a default: Python 3.11 refuses unhashable ones."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class _IntegerJoints:
    """A MuJoCo model whose `jnt` takes the one-element arrays that current mujoco refuses."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def jnt(self, index: Any) -> Any:
        return self._model.jnt(int(np.asarray(index).item()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def provide_removed_wrappers() -> None:
    """Break 1: gymnasium 1.0 removed the wrapper modules which safety-gymnasium imports."""
    import gymnasium.wrappers as wrappers

    removed: dict[str, dict[str, Any]] = {
        "compatibility": {"EnvCompatibility": object},
        "autoreset": {"AutoResetWrapper": wrappers.Autoreset},
        "time_limit": {"TimeLimit": wrappers.TimeLimit},
        "env_checker": {"PassiveEnvChecker": wrappers.PassiveEnvChecker},
    }
    for name, members in removed.items():
        full_name = f"gymnasium.wrappers.{name}"
        if full_name not in sys.modules:
            module = ModuleType(full_name)
            vars(module).update(members)
            sys.modules[full_name] = module


def make_colours_hashable() -> None:
    """Break 2: colours are arrays and dataclass defaults at once, which Python 3.11 refuses."""
    colours: dict[str, Any] = importlib.import_module("safety_gymnasium.assets.color").COLOR
    for name, value in colours.items():
        colours[name] = value.view(_HashableArray)


def accept_joint_arrays() -> None:
    """Break 4: `MjModel.jnt` no longer takes an array, so the agents cannot list their joint sensors."""
    agent_class = importlib.import_module("safety_gymnasium.bases.base_agent").BaseAgent
    original = agent_class._init_jnt_sensors

    def with_integer_joints(agent: Any) -> None:
        model = agent.engine.model
        agent.engine.model = _IntegerJoints(model)
        try:
            original(agent)
        finally:
            agent.engine.model = model

    agent_class._init_jnt_sensors = with_integer_joints


def strip_sky_box() -> None:
    """Slowness, not a break: every reset decodes 191 MB of star pictures and parses the same YAML file again.

    A small gradient takes the place of the stars; nothing but the background of a picture can tell.
    """
    world: Any = importlib.import_module("safety_gymnasium.world")
    yaml = importlib.import_module("yaml")
    sky = {"@type": "skybox", "@builtin": "gradient", "@width": 8, "@height": 48}
    sky |= {"@rgb1": "0.75 0.85 0.95", "@rgb2": "0.45 0.6 0.8"}

    @cache
    def parse(text: str) -> Any:
        assets = yaml.load(text, Loader=yaml.FullLoader)
        assets["textures"]["skybox"] = sky
        return assets

    def load(file: Any, Loader: Any) -> Any:
        return parse(file.read())

    world.yaml = SimpleNamespace(load=load, FullLoader=yaml.FullLoader)


@cache
def adapt_safety_gymnasium() -> None:
    """Mend the installed safety-gymnasium, once per process.

    Raises ImportError if it or one of its dependencies is not installed.
    """
    provide_removed_wrappers()
    importlib.import_module("safety_gymnasium")  # without its assets, which need the next patch
    make_colours_hashable()
    importlib.import_module("safety_gymnasium.builder")  # with its assets
    accept_joint_arrays()
    strip_sky_box()
