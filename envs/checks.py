"""What every environment checks before it acts."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


def check_render_mode(render_mode: str | None) -> None:
    """Raise ValueError unless `render_mode` is None or "rgb_array"."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode is None or 'rgb_array', not {render_mode!r}.")


def check_action(action: Any, space: spaces.Space[Any]) -> NDArray[Any]:
    """Return `action` as an array; ValueError unless it has the space's shape and is finite.

    A simulator would otherwise carry a NaN on silently, or stop with an error from deep inside.
    """
    array = np.asarray(action)
    if array.shape != space.shape or not np.isfinite(array).all():
        raise ValueError(f"An action is an array of {space.shape} finite numbers, not {action!r}.")
    return array
