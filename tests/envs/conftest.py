import importlib.util

import pytest

import envs


def simulated_tasks() -> list[str]:
    """Return the names of the 29 simulated tasks of DSRL and the point robot."""
    return [task.name for task in envs.tasks() if task.simulator != "metadrive"]


def require_simulator(name: str) -> None:
    """Skip the test if the simulator of the task `name` is not installed."""
    module = {"bullet": "pybullet", "safety_gymnasium": "safety_gymnasium"}.get(envs.task(name).simulator)
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
