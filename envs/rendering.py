"""Pictures of the simulators, off screen and quick: no shadows, no multi-sampling."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class MujocoCamera:
    """Draws MuJoCo scenes; the renderer is created with the first picture and remade when the model changes."""

    def picture(self, model: Any, data: Any) -> NDArray[np.uint8]:
        """Return an (H, W, 3) picture of the scene."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the renderer."""


def bullet_picture(raw: Any) -> NDArray[np.uint8]:
    """Return an (H, W, 3) picture of a Bullet task."""
    raise NotImplementedError
