import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import envs
from envs import rendering
from envs.errors import RenderingError


def picture(env: Any) -> Any:
    try:
        return env.render()
    except RenderingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "name",
    [
        "PointCircle1",
        "HalfCheetahVelocity",
        "BallCircle",
        "CarRun",
        "PointRobot",
        "PushT",
        "AdroitDoor",
        "FrankaKitchen",
        "pick-place-v3",
    ],
)
def test_a_picture_shows_the_scene_and_follows_it(
    name: str, safety_gymnasium: None, bullet: None, pusht: None, robotics: None, metaworld: None
) -> None:
    env = envs.make(name, render_mode="rgb_array")
    env.action_space.seed(0)
    env.reset(seed=0)
    first = picture(env)
    assert first.shape == (256, 256, 3)
    assert first.dtype == np.uint8
    assert first.std() > 10, "a blank picture"
    np.testing.assert_array_equal(picture(env), first)
    for _ in range(8):
        env.step(env.action_space.sample())
    later = picture(env)
    assert not np.array_equal(later, first)
    env.reset(seed=1)  # navigation tasks build a new model here
    assert not np.array_equal(picture(env), later)
    env.close()


@pytest.mark.parametrize("name", ["PointCircle1", "CarRun"])
def test_drawing_does_not_change_the_episode(name: str, safety_gymnasium: None, bullet: None) -> None:
    ends = []
    for mode in (None, "rgb_array"):
        env = envs.make(name, render_mode=mode)
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(5):
            observation, *_ = env.step(env.action_space.sample())
            assert (picture(env) is None) == (mode is None)
        ends.append(observation)
        env.close()
    np.testing.assert_array_equal(*ends)


def test_an_environment_left_open_ends_quietly(safety_gymnasium: None) -> None:
    code = (
        "import envs; env = envs.make('PointGoal1', render_mode='rgb_array'); env.reset(seed=0); env.render()"
    )
    folder = Path(envs.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )
    if "RenderingError" in done.stderr:
        pytest.skip("no OpenGL")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bullet_violation_gets_a_red_frame(bullet: None) -> None:
    env = envs.make("BallCircle", render_mode="rgb_array")
    env.reset(seed=0)
    corners = []
    for _ in range(60):
        *_, info = env.step(np.array([1.0, 0.0], np.float32))
        if not corners or info["cost"] > 0:
            corners.append(picture(env)[0, 0].tolist())
        if info["cost"] > 0:
            break
    assert corners[0] != [220, 30, 30]
    assert corners[-1] == [220, 30, 30]
    env.close()


def test_without_opengl_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, safety_gymnasium: None
) -> None:
    import mujoco

    def no_display(*_: Any, **__: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    env = envs.make("PointCircle1", render_mode="rgb_array")
    env.reset(seed=0)
    monkeypatch.setattr(mujoco, "Renderer", no_display)
    with pytest.raises(RenderingError, match=r"eglQueryString.*apt-get install libegl1"):
        env.render()
    env.close()


def test_a_screenless_machine_draws_with_egl_and_a_desktop_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    gl_context = pytest.importorskip("mujoco.gl_context")

    class Window:
        __module__ = "mujoco.glfw"

    monkeypatch.setattr(gl_context, "GLContext", Window)
    monkeypatch.setenv("DISPLAY", ":0")
    with rendering._context_without_screen():
        assert gl_context.GLContext is Window
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    try:
        with rendering._context_without_screen():
            assert gl_context.GLContext.__module__ == "mujoco.egl"
    except (ImportError, AttributeError):
        pytest.skip("the EGL library is not installed")
    assert gl_context.GLContext is Window
