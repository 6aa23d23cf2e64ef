import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import envs


def test_there_are_94_tasks() -> None:
    simulators = [task.simulator for task in envs.tasks()]
    assert {name: simulators.count(name) for name in simulators} == {
        "bullet": 8,
        "safety_gymnasium": 21,
        "metadrive": 9,
        "point_robot": 1,
        "pusht": 2,
        "adroit": 1,
        "kitchen": 1,
        "metaworld": 51,
    }
    assert len({task.id for task in envs.tasks()}) == len({task.name for task in envs.tasks()}) == 94


@pytest.mark.parametrize(
    ("task_id", "name"),
    [
        ("OfflineBallCircle-v0", "BallCircle"),
        ("OfflinePointCircle1Gymnasium-v0", "PointCircle1"),
        ("OfflineHalfCheetahVelocityGymnasium-v1", "HalfCheetahVelocity"),
        ("OfflineMetadrive-easysparse-v0", "Metadrive-easysparse"),
        ("PointRobot-v0", "PointRobot"),
        ("PushT-v0", "PushT"),
        ("AdroitHandDoor-v1", "AdroitDoor"),
        ("pick-place-v3", "pick-place-v3"),
    ],
)
def test_a_task_is_found_by_id_and_by_short_name(task_id: str, name: str) -> None:
    assert envs.task(task_id) is envs.task(name)
    assert envs.task(task_id.upper()) is envs.task(name.lower()) is envs.task(name)
    assert (envs.task(name).id, envs.task(name).name) == (task_id, name)


def test_a_typo_is_answered_with_the_nearest_task() -> None:
    with pytest.raises(envs.UnknownTaskError, match=r"'PointCirlce1'.*PointCircle1"):
        envs.task("PointCirlce1")
    with pytest.raises(envs.UnknownTaskError, match=r"pusht-v3.*PushT"):
        envs.task("pusht-v3")
    with pytest.raises(envs.UnknownTaskError, match=r"envs\.tasks\(\)"):
        envs.task("zzzzzzzz")


def test_scores_follow_the_formula_of_dsrl() -> None:
    ball_run = envs.task("BallRun")
    assert ball_run.normalized_return(500.0) == pytest.approx(0.36404437)
    assert ball_run.normalized_cost(10.0, 20.0) == pytest.approx(0.5)
    assert ball_run.normalized_cost(10.0, 0.0) == pytest.approx(11.0)
    with pytest.raises(ValueError, match="-1"):
        ball_run.normalized_cost(10.0, -1.0)


def _dsrl_infos() -> ModuleType:
    package = importlib.util.find_spec("dsrl")  # importing the package would make folders in the home
    if package is None or package.origin is None:
        pytest.skip("dsrl is not installed")
    spec = importlib.util.spec_from_file_location("dsrl_infos", Path(package.origin).with_name("infos.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_constants_are_those_of_dsrl() -> None:
    infos = _dsrl_infos()
    for task in envs.tasks():
        if task.simulator not in ("bullet", "safety_gymnasium", "metadrive"):
            continue
        key = task.name.removeprefix("Metadrive-")
        assert task.max_episode_steps == infos.DEFAULT_MAX_EPISODE_STEPS[key], task.name
        assert task.min_episode_reward == infos.MIN_EPISODE_REWARD[key], task.name
        assert task.max_episode_reward == infos.MAX_EPISODE_REWARD[key], task.name
        assert task.min_episode_cost == infos.MIN_EPISODE_COST[key], task.name
        assert task.max_episode_cost == infos.MAX_EPISODE_COST[key], task.name
        assert infos.DATASET_URLS[key].endswith(f"/{task.dataset_file}"), task.name


def test_importing_the_package_loads_no_simulator_and_patches_nothing() -> None:
    code = (
        "import sys, envs; envs.tasks(); envs.task('PointCircle1'); "
        "loaded = {'mujoco', 'pybullet', 'safety_gymnasium', 'torch', 'gymnasium.wrappers.compatibility', 'pygame', "
        "'gym_pusht', 'gymnasium_robotics', 'metaworld'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(envs.__file__).parents[1])


@pytest.mark.parametrize("name", ["Metadrive-easysparse", "OfflineMetadrive-harddense-v0"])
def test_metadrive_says_why_it_cannot_run(name: str) -> None:
    with pytest.raises(envs.MissingSimulatorError, match=r"simulated.*metadrive-simulator.*ported"):
        envs.make(name)


@pytest.mark.parametrize(
    ("name", "module"),
    [("BallCircle", "bullet_safety_gym.envs.builder"), ("PointCircle1", "safety_gymnasium")],
)
def test_a_missing_simulator_says_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from envs.dsrl.adapter import adapt_safety_gymnasium

    monkeypatch.setitem(sys.modules, module, None)
    adapt_safety_gymnasium.cache_clear()
    with pytest.raises(envs.MissingSimulatorError, match="pip install --no-deps safety-gymnasium"):
        envs.make(name)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("PushT", "gym_pusht.envs.pusht"),
        ("AdroitDoor", "gymnasium_robotics.envs.adroit_hand.adroit_door"),
        ("FrankaKitchen", "gymnasium_robotics.envs.franka_kitchen"),
        ("reach-v3", "metaworld.env_dict"),
    ],
)
def test_a_missing_robotics_package_says_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(envs.MissingSimulatorError, match=r"pip install 'diffpolicy\[robotics\]'"):
        envs.make(name)


def test_layouts_stay_within_their_observations_and_actions() -> None:
    for task in envs.tasks():
        layout = task.layout
        bodies = [column for body in layout.bodies for column in (*body.position, body.angle or 0)]
        assert all(0 <= column < task.observation_size for column in (*layout.agent, *layout.angles, *bodies))
        assert all(0 <= column < task.action_size for column in layout.discrete)
        for symmetry in layout.symmetries:
            assert (
                len(symmetry.observation.matrix) == len(symmetry.observation.offset) == task.observation_size
            )
            assert len(symmetry.action.matrix) == len(symmetry.action.offset) == task.action_size
