"""The suite align-pusht: what its targets say of known episodes, and a whole small run."""

import json
from pathlib import Path

import pytest

from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.suites.align_pusht import markdown, targets
from diffpolicy.evaluation import Episode, tabulate
from diffpolicy.evaluation.summary import Episodes
from diffpolicy.policies import load_policy
from diffpolicy.training import latest_checkpoint, read_checkpoint


def episodes(score: float) -> Episodes:
    return tuple(
        tuple(Episode(10 * k + i, 0.0, 0.0, 300, False, False, score + 0.01 * i) for i in range(4))
        for k in range(2)
    )


def test_an_objective_has_to_gain_with_its_whole_interval() -> None:
    played = {"bc": episodes(0.5), "nft": episodes(0.6), "awm": episodes(0.5)}
    found = targets(tabulate("PushT", "best_reward", played, reference="bc"))
    assert [(one["name"], one["met"]) for one in found] == [
        ("nft: score gained", True),
        ("awm: score gained", False),
    ]
    assert found[0]["value"] == pytest.approx(0.1)


def test_a_small_suite_runs_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    results = tmp_path / "results" / "align-pusht.json"
    arguments = [
        "benchmark",
        "align-pusht",
        f"run={tmp_path / 'run'}",
        f"results={results}",
        "seeds=[0]",
        "episodes=1",
        "demonstrations=3",
        "iterations=1",
        "rollouts.groups=1",
        "rollouts.group_size=2",
        "rollouts.decisions=2",
        "policy.optimizer.updates=2",
        "policy.network.hidden=[16]",
        "progress=false",
    ]
    assert dispatch(arguments) == 0
    document = json.loads(results.read_text())
    assert [row["arm"] for row in document["rows"]] == ["bc", "nft", "awm", "rwr", "ddpo"]
    assert document["rows"][1]["environment_steps"] == [2 * 2 * 8]
    assert markdown(document).count("\n|") == 7
    last = latest_checkpoint(tmp_path / "run" / "seed-0" / "nft")
    assert last is not None
    load_policy(read_checkpoint(last), "ddim_5@8")  # as `diffpolicy evaluate` does
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.suffix == ".json"}
    assert dispatch(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
