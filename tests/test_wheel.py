"""The wheel, built and installed in an empty environment, works from another folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
        text=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` folder of an environment that has the wheel, and sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            f"--python={python}",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            wheel,
        ],
        check=True,
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder named in a .pth file adds its packages but not its own .pth files, so not our editable install.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(installed: Path, folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(installed / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_carries_packages_configs_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"diffpolicy/__init__.py", "diffpolicy/py.typed", "envs/__init__.py"} <= names
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert f"diffpolicy/configs/{file.relative_to(ROOT / 'configs')}" in names
    for file in (ROOT / "diffpolicy" / "assets").glob("*"):
        assert f"diffpolicy/assets/{file.name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_carries_nothing_else(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} <= {"diffpolicy", "envs", "world_models"}


def test_help_from_another_folder(installed, tmp_path):
    assert "train" in run(installed, tmp_path, "diffpolicy", "--help")


def test_the_configs_are_the_installed_ones(installed, tmp_path):
    config = yaml.safe_load(run(installed, tmp_path, "diffpolicy", "train", "--cfg", "job"))
    assert config["task"] == "BallCircle"
    search = run(installed, tmp_path, "diffpolicy", "train", "--info", "searchpath")
    assert "site-packages/diffpolicy/configs" in search


def test_the_package_is_the_installed_one(installed, tmp_path):
    code = "import diffpolicy, envs; print(diffpolicy.__file__, envs.__file__, len(envs.tasks()))"
    diffpolicy_file, envs_file, tasks = run(installed, tmp_path, "python", "-c", code).split()
    packages = str(installed.parent)
    assert diffpolicy_file.startswith(packages)
    assert envs_file.startswith(packages)
    assert int(tasks) == 94
