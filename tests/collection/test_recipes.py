from pathlib import Path

import pytest

import envs
from diffpolicy.cli.collect import collect_task
from diffpolicy.cli.config import build
from diffpolicy.collection import CollectConfig, CollectionInterrupted
from diffpolicy.collection.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_of_known_tasks_and_valid(name: str) -> None:
    assert envs.task(name).name == name
    configs = [build(CollectConfig, settings) for settings in RECIPES[name]]
    assert [config.extend for config in configs] == [False] + [True] * (len(configs) - 1)


def test_an_interrupted_recipe_goes_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def collect(*_: object) -> None:
        started.append(1)
        raise CollectionInterrupted("stopped")

    monkeypatch.setattr("diffpolicy.cli.collect.collect", collect)
    with pytest.raises(CollectionInterrupted):
        collect_task(envs.task("PointCircle1"), tmp_path / "x.hdf5", {}, progress=False)
    assert len(started) == 1


@pytest.mark.parametrize(("source", "runs"), [(None, 2), ("ppo", 2), ("mixture", 1), ("sac", 1)])
def test_a_source_that_is_not_the_recipe_s_collects_once(
    source: str | None, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[CollectConfig] = []
    monkeypatch.setattr("diffpolicy.cli.collect.collect", lambda task, config, *rest: configs.append(config))
    for name in ("HalfCheetahVelocity", "PointCircle1"):
        configs.clear()
        collect_task(envs.task(name), tmp_path / "x.hdf5", {"source": source, "seed": 5}, progress=False)
        assert [config.extend for config in configs] == [False, True][:runs]
        assert {config.seed for config in configs} == {5}


def test_a_recipe_of_two_runs_pools_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = {"per_cell": 1_000, "max_episodes": 1_000, "source": "scripted"}
    runs = [{**keep, "steps": 1_500}, {**keep, "steps": 1_500, "seed": 1, "extend": True}]
    monkeypatch.setattr("diffpolicy.cli.collect.RECIPES", {"PointRobot": runs})
    path, task = tmp_path / "pooled.hdf5", envs.task("PointRobot")
    pooled = collect_task(task, path, {"source": None}, progress=False)
    monkeypatch.setattr("diffpolicy.cli.collect.RECIPES", {"PointRobot": runs[:1]})
    first = collect_task(task, tmp_path / "first.hdf5", {}, progress=False)
    assert pooled.num_episodes > 1.5 * first.num_episodes
