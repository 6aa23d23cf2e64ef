"""The suite safe-refine: what its targets say of known episodes, and a whole small run."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import envs
from diffpolicy import evaluation
from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.hydra_verb import HYDRA_VERSION
from diffpolicy.cli.suites.safe_refine import task_config
from diffpolicy.cli.suites.safe_refine_document import best_offline, gates_table, targets
from diffpolicy.evaluation import Episode
from diffpolicy.evaluation.summary import Episodes

BALL = envs.task("BallCircle")


def episodes(earned: float, cost: float) -> Episodes:
    return tuple(
        tuple(Episode(2 * k + i, earned + i, cost, 200, False, cost > 0) for i in range(2)) for k in range(2)
    )


def judged(split: tuple[float, float]) -> evaluation.Evaluation:
    played = {
        "greedy": episodes(700.0, 60.0),
        "fisor": episodes(300.0, 0.0),
        "bc_safe": episodes(200.0, 4.0),
        "refined_split": episodes(*split),
    }
    return evaluation.judge(BALL, played, seed=0, reference="fisor")


def test_the_best_offline_arm_is_one_that_keeps_to_the_limit() -> None:
    assert best_offline(judged((0.0, 99.0))) == "fisor"
    unsafe = evaluation.judge(BALL, {"worse": episodes(9.0, 50.0), "better": episodes(1.0, 20.0)}, seed=0)
    assert best_offline(unsafe) == "better"


@pytest.mark.parametrize(
    ("split", "met"),
    [((500.0, 0.0), [True, True]), ((500.0, 30.0), [True, False]), ((250.0, 0.0), [False, True])],
)
def test_targets_ask_for_more_return_within_the_limit(split: tuple[float, float], met: list[bool]) -> None:
    found = targets("BallCircle", judged(split))
    assert [one["met"] for one in found] == met
    wanted = (split[0] - 300.0) / (BALL.max_episode_reward - BALL.min_episode_reward)
    assert found[0]["value"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "history", "bound"),
    [("BallCircle", 1, "clip"), ("HalfCheetahVelocity", 1, "tanh"), ("CarRun", 4, "clip")],
)
def test_every_tasks_options_are_merged(name: str, history: int, bound: str) -> None:
    with initialize_config_dir(str(config_folder()), version_base=HYDRA_VERSION):
        cfg = compose("benchmark", overrides=["suite=safe-refine"])
    options = task_config(cfg, name)
    assert options.world_model_options.history == history
    assert options.gaussian.bound == bound
    assert options.refine.iterations == (100 if name == "HalfCheetahVelocity" else 200)
    assert options.refine.clip == 0.3


def test_verdicts_are_tabulated_with_those_that_were_never_refined() -> None:
    figures = {"imagined_return": BALL.max_episode_reward, "imagined_cost": 2.0, "uncertainty_ratio": 1.25}
    one = {"task": "BallCircle", "seed": 1, "method": "split", "reasons": []}
    text = gates_table(
        [
            {**one, "released": True, "figures": figures},
            {**one, "seed": 2, "released": False, "reasons": ["it leaves", "it costs"], "figures": {}},
        ]
    )
    assert "| BallCircle | 1 | split | yes | 1.000 | 2.00 | 1.25 |  |" in text
    assert "| BallCircle | 2 | split | no |  |  |  | it leaves; it costs |" in text


def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    data, offline = tmp_path / "data" / "point_robot.hdf5", tmp_path / "offline" / "PointRobot"
    quiet = ["progress=false"]
    words = ["collect", "task=PointRobot", "steps=3000", f"to={data}", f"run={tmp_path / 'collect'}"]
    assert dispatch([*words, *quiet]) == 0
    sizes = ["policy.critic_updates=20", "policy.actor_updates=10", "policy.critic.hidden=[16]"]
    words = ["train", "task=PointRobot", f"data={data}", f"run={offline}", "policy.actors=[none]", *sizes]
    assert dispatch([*words, *quiet]) == 0
    words = ["evaluate", f"checkpoint={offline}", "arms=[bc]", "episodes=1", f"run={offline}", "seed=5"]
    assert dispatch(words) == 0
    results = tmp_path / "results.json"
    words = ["benchmark", "suite=safe-refine", f"run={tmp_path / 'suite'}", f"results={results}", "seed=5"]
    words += [f"offline={tmp_path / 'offline'}", f"data_folder={data.parent}", "seeds=[0]", "episodes=1"]
    words += ["~tasks.BallCircle", "~tasks.HalfCheetahVelocity", "~tasks.CarRun", "~tasks.BallRun"]
    words += ["+tasks.PointRobot={}"]
    words += [
        "refine.iterations=1",
        "+refine.updates=1",
        "+branches={count:8,horizon:3}",
        "clone.max_cost=1e6",
    ]
    words += ["+clone.updates=20", "+gate={cost_rate:0,start_uncertainty:1e6}"]
    words += ["+world_model_options={updates:50,hidden:[16],members:2}", "+value={hidden:[8],data_epochs:1}"]
    assert dispatch([*words, *quiet]) == 0
    found = json.loads(results.read_text())
    assert {row["arm"] for row in found["rows"]} == {
        "bc",
        "clone",
        "refined_split",
        "refined_lagrangian",
        "refined_reward",
    }
    assert len(found["gates"]) == 3
    assert "PointRobot was not looked at" in results.with_suffix(".md").read_text()
    assert results.with_suffix(".png").stat().st_size > 0
    made = tmp_path / "suite" / "PointRobot" / "seed-0"
    kept = [made / "split" / "release.json", made / "refined_split.json"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert dispatch([*words, *quiet]) == 0  # nothing is refined or played again
    assert [path.stat().st_mtime_ns for path in kept] == before
