"""Pictures of the simulators, off screen and quick: no shadows, no multi-sampling."""

import importlib
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import RenderingError

Picture = NDArray[np.uint8]

SIZE = 256  # [pixel], of MuJoCo pictures unless another is asked for, and of Bullet's


class MujocoCamera:
    """Draws MuJoCo scenes; its renderer is created with the first picture, and again for a new model.

    `view` is one of the model's cameras or the settings of a free one (`distance` [m], `azimuth` and `elevation`
    [degree], `lookat` [m]); None suits Safety-Gymnasium, whose hazards are hidden without `all_geometry`. Pictures have
    `size` pixels on a side. Without `sky` what is empty is black, which saves a third of the time.
    """

    def __init__(
        self,
        view: str | Mapping[str, Any] | None = None,
        *,
        all_geometry: bool = True,
        size: int = SIZE,
        sky: bool = True,
    ) -> None:
        self._view = view
        self._all_geometry = all_geometry
        self._size = size
        self._sky = sky
        self._renderer: Any = None
        self._model: Any = None

    def picture(self, model: Any, data: Any, view: Mapping[str, Any] | None = None) -> Picture:
        """Return a (size, size, 3) picture of the scene in its present state, in another `view` if one is given.

        Raises RenderingError if there is no OpenGL to draw with.
        """
        if self._model is not model:
            self.close()
            self._renderer = _mujoco_renderer(model, self._size)
            self._model = model
            # Also at the interpreter's end if nobody calls close(): there OpenGL complains loudly.
            self._release = weakref.finalize(self, self._renderer.close)
        options = _all_geometry() if self._all_geometry else None
        self._renderer.update_scene(data, camera=_camera(model, view or self._view), scene_option=options)
        _without_shadows(self._renderer.scene, self._sky)
        picture: Picture = self._renderer.render()
        return picture

    def close(self) -> None:
        """Release the renderer; the next picture makes a new one."""
        if self._renderer is not None:
            self._release()
        self._renderer = self._model = None


def _mujoco_renderer(model: Any, size: int) -> Any:
    import mujoco  # type: ignore[import-untyped]

    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.vis.global_.offwidth = max(size, model.vis.global_.offwidth)
    model.vis.global_.offheight = max(size, model.vis.global_.offheight)
    try:
        with _context_without_screen():
            return mujoco.Renderer(model, height=size, width=size)
    except Exception as error:  # whatever the OpenGL binding raises: its types differ with the back-end
        raise RenderingError(
            f"MuJoCo finds no OpenGL to draw with ({error}). On Debian and Ubuntu, `apt-get install libegl1 "
            "libgl1-mesa-dri` lets it draw without a screen; or `apt-get install libosmesa6` and set "
            "MUJOCO_GL=osmesa before Python starts."
        ) from error


@contextmanager
def _context_without_screen() -> Iterator[None]:
    """Let MuJoCo use EGL where it would ask for a window although there is no screen.

    MuJoCo chooses at its import, from MUJOCO_GL, which is too early for an environment that may never be
    drawn.
    """
    from mujoco import gl_context

    chosen = gl_context.GLContext
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform != "linux" or has_screen or chosen.__module__ != "mujoco.glfw":
        yield
        return
    gl_context.GLContext = importlib.import_module("mujoco.egl").GLContext
    try:
        yield
    finally:
        gl_context.GLContext = chosen


def _camera(model: Any, view: str | Mapping[str, Any] | None) -> Any:
    """Return the camera: as asked for, else above the arena, else the robot's own, which follows it."""
    if isinstance(view, Mapping):
        import mujoco

        camera = mujoco.MjvCamera()
        for name, value in view.items():
            setattr(camera, name, value)
        return camera
    if view is not None:
        return view
    names = [model.camera(index).name for index in range(model.ncam)]
    return "fixedfar" if "fixedfar" in names else "track"


def _all_geometry() -> Any:
    import mujoco

    options = mujoco.MjvOption()
    options.geomgroup[:] = 1  # hazards, walls and zones are in groups that are hidden by default
    return options


def _without_shadows(scene: Any, sky: bool) -> None:
    import mujoco

    scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
    scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = sky
    scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = sky


def bullet_picture(raw: Any) -> Picture:
    """Return a (256, 256, 3) picture of a Bullet task: the circle from above, or the way before a runner.

    A red frame marks a step with a cost.
    """
    client, agent = raw.bc, raw.agent
    if hasattr(raw.task, "circle"):
        target, distance, yaw, pitch = (0.0, 0.0, 0.0), 14.0, 0.0, -89.0
        # The circle is the dark blue of the car.
        client.changeVisualShape(raw.task.circle.body_id, -1, rgbaColor=(0.7, 0.9, 0.7, 1.0))
    else:
        target, distance, yaw, pitch = (agent.get_position()[0] + 1.5, 0.0, 0.3), 5.5, -40.0, -35.0
    view = client.computeViewMatrixFromYawPitchRoll(target, distance, yaw, pitch, roll=0, upAxisIndex=2)
    projection = client.computeProjectionMatrixFOV(fov=60, aspect=1.0, nearVal=0.1, farVal=100.0)
    # The software renderer needs no OpenGL, so every machine draws the same picture. But it knows no
    # transparency, and would hide the robot inside the ball that is to light up at a violation.
    ball = agent.violation_body_id
    place = client.getBasePositionAndOrientation(ball)
    client.resetBasePositionAndOrientation(ball, (0, 0, -100), (0, 0, 0, 1))
    *_, pixels, _depth, _mask = client.getCameraImage(
        SIZE,
        SIZE,
        view,
        projection,
        renderer=client.ER_TINY_RENDERER,
        flags=client.ER_NO_SEGMENTATION_MASK,
        shadow=0,
    )
    client.resetBasePositionAndOrientation(ball, *place)
    picture = np.asarray(pixels, np.uint8).reshape(SIZE, SIZE, 4)[..., :3].copy()
    if agent._violates_constraints:
        _frame(picture)
    return picture


def _frame(picture: Picture) -> None:
    inside = picture[6:-6, 6:-6].copy()
    picture[:] = (220, 30, 30)
    picture[6:-6, 6:-6] = inside
