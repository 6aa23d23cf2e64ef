"""What holds for the project as a whole: its top level, its licence, its verbs, and what no file may say."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import diffpolicy
from diffpolicy.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "configs",
    "diffpolicy",
    "docs",
    "envs",
    "pyproject.toml",
    "tests",
    "world_models",
}
TEXT = {".md", ".py", ".toml", ".yaml", ".yml", ".json", ".html", ".txt", ""}


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_top_level_is_what_it_should_be():
    found = {file.relative_to(ROOT).parts[0] for file in tracked()}
    assert found <= TOP_LEVEL
    assert TOP_LEVEL - found <= {"world_models", "benchmarks"}


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_versions_agree():
    assert version("diffpolicy") == diffpolicy.__version__


def test_the_changelog_knows_the_version_or_what_is_coming():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(diffpolicy.__version__)


def test_no_file_names_a_folder_of_somebodys_machine():
    personal = re.compile(rb"(?<![\w.~:/])/(?:work|root|home|Users|mnt)/(?!somebody\b)[\w.]+")
    named = [
        f"{file.relative_to(ROOT)}: {match[0].decode()}"
        for file in tracked()
        if file.suffix in TEXT
        for match in [personal.search(file.read_bytes())]
        if match
    ]
    assert named == []


def test_no_file_is_heavier_than_the_shipped_dataset_may_be():
    heavy = {
        str(file.relative_to(ROOT)): file.stat().st_size for file in tracked() if file.stat().st_size > 10e6
    }
    assert heavy == {}


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.arguments == "hydra"])
def test_every_verb_has_its_module_and_its_configuration(name):
    assert (ROOT / Path(*VERBS[name].module.split("."))).with_suffix(".py").is_file()
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    assert {"base", *VERBS} & {str(each) for each in config["defaults"]}  # its own, or as another verb's
    assert Path(config["run"]).is_relative_to(f"runs/{name}")


def test_every_configuration_belongs_to_a_verb():
    files = {file.stem for file in (ROOT / "configs").glob("*.yaml")}
    assert files - {"base"} == {name for name, verb in VERBS.items() if verb.arguments == "hydra"}


def test_what_is_imported_is_declared():
    """Nothing but the standard library and the declared packages is imported by the packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("safety", "collect", "robotics", "formats", "images", "export", "deploy")
    wanted = [*project["dependencies"]]
    wanted += [item for extra in extras for item in project["optional-dependencies"][extra]]
    declared = {re.split(r"[<>=!~;\[ ]", item)[0].lower().replace("-", "_") for item in wanted}
    installed_apart = {"dsrl", "safety_gymnasium", "bullet_safety_gym"}
    installed_apart |= {"rclpy", "launch", "sensor_msgs", "std_srvs", "trajectory_msgs"}  # with ROS 2
    under_another_name = {
        "sklearn": "scikit_learn",
        "hydra": "hydra_core",
        "yaml": "pyyaml",
        "PIL": "pillow",
        "cv2": "gym_pusht",
    }
    known = declared | installed_apart | {"diffpolicy", "envs", "world_models"} | set(sys.stdlib_module_names)
    unknown = {
        f"{file.relative_to(ROOT)}: {name}"
        for package in ("diffpolicy", "envs", "world_models")
        for file in (ROOT / package).rglob("*.py")
        for name in imports(file)
        if under_another_name.get(name, name) not in known
    }
    assert unknown == set()


def imports(file: Path) -> set[str]:
    """Return the top-level names of everything that a file imports absolutely, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
