"""The suite world4rl: what it reports of known episodes, and a whole small run that goes on where it was."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.suites.world4rl import Watched
from diffpolicy.cli.suites.world4rl_document import Found, make_document, markdown
from diffpolicy.cli.suites.world4rl_runs import until_success
from diffpolicy.data import from_transitions
from diffpolicy.evaluation import Episode

CONFUSION = {"true_positive": 2, "false_positive": 1, "false_negative": 0, "true_negative": 3}


def found(arm: str, successes: int, imagined: float) -> Found:
    played = [Episode(i, 0.0, 0.0, 9, False, False, success=i < successes) for i in range(10)]
    one = {
        "imagined_success": imagined,
        "episodes": [asdict(each) for each in played],
        "confusion": CONFUSION,
    }
    return Found("push-v3", arm, [one, one])


def document(refined: int) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder().resolve()), version_base=None):
        cfg = compose("benchmark", ["suite=world4rl"])
    return make_document(cfg, [found("clone", 3, 0.5), found("refined", refined, 0.9)])


@pytest.mark.parametrize(("refined", "met"), [(9, True), (3, False), (1, False)])
def test_refinement_has_to_gain_with_its_whole_interval(refined: int, met: bool) -> None:
    (one,) = document(refined)["targets"]
    assert one["value"] == pytest.approx(refined / 10 - 0.3)
    assert one["met"] is met


def test_the_table_sets_imagination_beside_truth() -> None:
    text = markdown(document(9))
    row = next(line for line in text.splitlines() if line.startswith("| push-v3 | refined"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2].startswith("0.900 [")
    assert cells[3] == "0.90, 0.90"
    # Confusions of both seeds are added up: one of four failures each is called a success.
    assert cells[5:] == ["0.900", "2/8", "0/4"]


def test_only_the_first_success_of_an_episode_is_rewarded() -> None:
    rewards = np.array([0, 1, 1, 0, 0, 1, 0, 1], dtype=np.float32)
    dataset = from_transitions(
        observations=np.arange(16, dtype=np.float32).reshape(8, 2),
        actions=np.zeros((8, 1), dtype=np.float32),
        rewards=rewards,
        costs=np.zeros(8, dtype=np.float32),
        terminals=np.zeros(8, dtype=bool),
        timeouts=np.array([0, 0, 0, 1, 0, 0, 0, 1], dtype=bool),
    )
    assert until_success(dataset).rewards.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert dataset.rewards.tolist() == rewards.tolist()


class Endless:
    num_envs = 2
    single_action_space = None

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros((2, 1)), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}


def test_episodes_are_cut_at_the_horizon_after_every_reset() -> None:
    env = Watched(Endless(), 3)
    for _ in range(2):
        env.reset(seed=[0, 1])
        assert [env.step(None)[3].tolist() for _ in range(3)] == [[False] * 2, [False] * 2, [True] * 2]


def test_a_small_suite_runs_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    results = tmp_path / "results.json"
    words = [
        "benchmark",
        "world4rl",
        f"run={tmp_path / 'run'}",
        f"results={results}",
        "seeds=[4]",
        "episodes=2",
    ]
    words += [
        "~pixels.tasks.reach-v3-pixels",
        "progress=false",
        "imagined=4",
        "demonstrations=2",
        "~tasks.push-v3",
        "~tasks.door-lock-v3",
    ]
    words += ["~tasks.coffee-pull-v3", "tasks.reach-v3.horizon=6", "clone.updates=5", "gaussian.hidden=[8]"]
    words += ["mixture={driven:2,noisy:1,uniform:1,held:1}", "world_model.hidden=[8]", "world_model.batch=16"]
    words += ["world_model.head_hidden=[8]", "world_model.updates=5", "world_model.history=2", "starts=4"]
    words += [
        "judge={every:5,horizon:2,starts:4}",
        "branches.count=4",
        "refine.iterations=2",
        "refine.updates=2",
    ]
    words += ["value.hidden=[8]", "arms.no_exploring_data.mixture={driven:3,noisy:0,uniform:0,held:0}"]
    assert dispatch(words) == 0
    found = json.loads(results.read_text())
    assert [row["arm"] for row in found["rows"]] == ["clone", *found["arms"]]
    for row in found["rows"]:
        assert sum(row["confusion"].values()) == 2
    models = {path.parent.name for path in (tmp_path / "run" / "reach-v3" / "seed-4").glob("*/checkpoints")}
    assert len([name for name in models if name.startswith("world-")]) == 2
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json")}
    assert dispatch(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json")} == kept
