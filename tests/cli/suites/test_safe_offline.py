"""The suite safe-offline: what a kept certificate is still good for, and options that its targets cannot do without."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import envs
from diffpolicy import evaluation
from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.hydra_verb import HYDRA_VERSION
from diffpolicy.cli.suites.safe_offline import check_options, kept_evaluation, targets
from diffpolicy.evaluation import Episode
from diffpolicy.evaluation.certificate import write_certificate

BALL = envs.task("BallCircle")
WEIGHTS = "a" * 64
COSTS = {"bc_safe": 4.0, "fisor": 0.0, "best_feasible_4": 15.0}
SMALL = ["arms=[fisor,bc_safe,best_feasible_4]", "episodes=2", "seed=0"]


def options(*changes: str) -> DictConfig:
    with initialize_config_dir(str(config_folder()), version_base=HYDRA_VERSION):
        return compose("benchmark", overrides=["suite=safe-offline", *changes])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the certificate of three arms of one training seed."""
    played = {
        arm: (tuple(Episode(k, 100.0 + k + cost, cost, 200, False, cost > 0) for k in range(2)),)
        for arm, cost in COSTS.items()
    }
    judged = evaluation.judge(BALL, played, seed=0, limits=[10, 20, 40], reference="bc_safe")
    write_certificate(
        judged,
        tmp_path / "certificate.json",
        data_hash="b" * 64,
        weights_hashes={arm: [WEIGHTS] for arm in COSTS},
        command=["diffpolicy"],
        manifest={},
    )
    return tmp_path


def test_kept_episodes_are_judged_as_is_asked(folder: Path) -> None:
    found = kept_evaluation(options(*SMALL), folder, WEIGHTS)
    assert found is not None
    assert (found.limits, found.reference) == ((10.0, 20.0, 40.0), "bc_safe")
    other = kept_evaluation(options(*SMALL, "limits=[10,5]", "reference=fisor"), folder, WEIGHTS)
    assert other is not None
    assert (other.limits, other.reference) == ((10.0, 5.0), "fisor")
    assert other.arm("best_feasible_4").summary.at(5.0).normalized_cost.mean == pytest.approx(3.0, abs=0.1)
    assert {difference.reference for difference in other.differences} == {"fisor"}
    assert other.arm("fisor").episodes == found.arm("fisor").episodes


@pytest.mark.parametrize("changed", ["episodes=3", "seed=1", "arms=[fisor,bc_safe]"])
def test_other_episodes_are_played_anew(folder: Path, tmp_path: Path, changed: str) -> None:
    assert kept_evaluation(options(*SMALL, changed), folder, WEIGHTS) is None
    assert kept_evaluation(options(*SMALL), folder, "c" * 64) is None
    assert kept_evaluation(options(*SMALL), tmp_path / "nothing", WEIGHTS) is None


def test_targets_name_the_reference(folder: Path) -> None:
    cfg = options(*SMALL)
    found = kept_evaluation(cfg, folder, WEIGHTS)
    assert found is not None
    stated = targets({"BallCircle": found}, cfg.headline, cfg.reference)
    assert [one["met"] for one in stated] == [False, True, True, False]
    assert "minus bc_safe" in stated[1]["name"]


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ("limits=[20]", "lacks 10"),
        ("limits=10", "takes a list"),
        ("seeds=0", "takes a list"),
        ("arms=[bc,bc_safe,fisor]", "lacks best_feasible_4"),
        ("reference=fisor", "another arm"),
        ("headline=bc_safe", "another arm"),
    ],
)
def test_what_the_targets_cannot_do_without_is_asked_for_first(changed: str, hint: str) -> None:
    check_options(options())
    with pytest.raises(ConfigError, match=hint):
        check_options(options(changed))
