"""The toy learner for the tests of this folder."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="session")
def toy() -> Callable[..., Any]:
    """The class of the toy learner; the script also runs by itself, where a test needs a process to kill."""
    return runpy.run_path(str(TOY))["ToyLearner"]
