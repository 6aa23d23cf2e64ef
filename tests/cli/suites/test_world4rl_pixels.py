"""The suite world4rl from pixels: its options, the pictures it keeps, and a whole small run that goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import envs
from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.suites.world4rl import Watched
from diffpolicy.cli.suites.world4rl_pixels import options
from envs.errors import RenderingError

NAME = "reach-v3-pixels"


def test_options_of_pixels_take_the_place_of_those_of_states() -> None:
    with initialize_config_dir(str(config_folder().resolve()), version_base=None):
        cfg = compose("benchmark", ["suite=world4rl", f"pixels.tasks.{NAME}.horizon=7"])
    chosen = options(cfg, NAME)
    assert (chosen.horizon, chosen.seeds, chosen.episodes) == (7, cfg.seeds, cfg.episodes)
    assert "unseen" in cfg.clone
    assert set(chosen.clone) == set(cfg.pixels.clone)
    assert chosen.world_model.kind == "pixels"
    assert chosen.gaussian.size == chosen.world_model.size == envs.task(NAME).image_size
    assert list(chosen.arms) == ["refined"]


class Numbered:
    """Two environments whose pictures say which one it is and how often it was stepped."""

    num_envs = 2
    single_action_space = None

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros((2, 1)), self._infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps += 1
        return np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), self._infos()

    def _infos(self) -> dict[str, Any]:
        shown = np.zeros((2, 1, 1, 3), np.uint8)
        shown[:, 0, 0, 0], shown[:, 0, 0, 1] = (0, 1), self.steps
        return {"images": {"camera": shown}}


def test_pictures_are_kept_episode_by_episode() -> None:
    env = Watched(Numbered(), 3)
    for _ in range(2):
        env.reset(seed=[0, 1])
        while not env.step(None)[3].all():
            pass
    kept = env.pictures(2)["camera"][:, 0, 0, :2]
    assert kept.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    alone = env.pictures(1)["camera"][
        :, 0, 0, :2
    ]  # the last batch is filled up with episodes that nobody wants
    assert alone.tolist() == [[0, 0], [0, 1], [0, 2]]


def test_a_small_suite_from_pixels_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("metaworld")
    env: Any = envs.make(NAME)
    try:
        env.reset(seed=0)
    except RenderingError as error:
        pytest.skip(str(error))
    finally:
        env.close()
    monkeypatch.setenv("DIFFPOLICY_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results.json"
    words = ["benchmark", "world4rl", f"run={tmp_path / 'run'}", f"results={results}", "seeds=[4]"]
    words += ["episodes=2", "progress=false", "imagined=4", "parallel=2"]
    words += [f"~tasks.{name}" for name in ("reach-v3", "push-v3", "door-lock-v3", "coffee-pull-v3")]
    words += [f"pixels.tasks.{NAME}.horizon=6", "pixels.demonstrations=2", "pixels.expert_steps=6"]
    words += ["pixels.mixture={driven:2,noisy:1,uniform:1,held:1}", "pixels.clone.updates=5"]
    words += ["pixels.world_model.updates=3", "pixels.world_model.batch=2", "pixels.hold_out.share=0.2"]
    words += [
        "pixels.judge={every:3,horizon:2,starts:4}",
        "pixels.branches.count=4",
        "pixels.value.hidden=[8]",
    ]
    words += ["pixels.refine.iterations=2", "pixels.refine.updates=2"]
    assert dispatch(words) == 0
    found = json.loads(results.read_text())
    assert [(row["task"], row["arm"]) for row in found["rows"]] == [(NAME, "clone"), (NAME, "refined")]
    for row in found["rows"]:
        assert sum(row["confusion"].values()) == 2
    assert [target["name"] for target in found["targets"]] == [f"{NAME}: success gained"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json")}
    assert dispatch(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json")} == kept
