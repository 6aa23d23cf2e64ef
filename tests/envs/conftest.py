import importlib.util

import pytest

import envs

PACKAGES = {
    "bullet": "pybullet",
    "safety_gymnasium": "safety_gymnasium",
    "pusht": "gym_pusht",
    "adroit": "gymnasium_robotics",
    "kitchen": "gymnasium_robotics",
    "metaworld": "metaworld",
}
# Of Meta-World's fifty, which share one simulator, some that differ in their objects.
META_WORLD = ("pick-place-v3", "dial-turn-v3", "window-open-v3")


def simulated_tasks() -> list[str]:
    """Return the names of the simulated tasks, three of Meta-World's among them."""
    return [
        task.name
        for task in envs.tasks()
        if task.simulator not in ("metadrive", "metaworld") or task.name in META_WORLD
    ]


def require_simulator(name: str) -> None:
    """Skip the test if the simulator of the task `name` is not installed."""
    module = PACKAGES.get(envs.task(name).simulator)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the fixture `simulated` for every task that has a simulator."""
    if "simulated" in metafunc.fixturenames:
        metafunc.parametrize("simulated", simulated_tasks(), indirect=True)


@pytest.fixture
def simulated(request: pytest.FixtureRequest) -> str:
    """Return the name of a simulated task whose simulator is installed."""
    name: str = request.param
    require_simulator(name)
    return name


@pytest.fixture
def safety_gymnasium() -> None:
    """Require the simulator of the navigation and velocity tasks."""
    require_simulator("PointCircle1")


@pytest.fixture
def bullet() -> None:
    """Require the simulator of the Bullet tasks."""
    require_simulator("BallCircle")


@pytest.fixture
def pusht() -> None:
    """Require the simulator of Push-T."""
    require_simulator("PushT")


@pytest.fixture
def robotics() -> None:
    """Require the simulators of the Adroit door and the kitchen."""
    require_simulator("AdroitDoor")


@pytest.fixture
def metaworld() -> None:
    """Require Meta-World."""
    require_simulator("reach-v3")
