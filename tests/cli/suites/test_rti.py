"""The suite rti: what its targets say of known episodes, its page, and a whole small run."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

import envs
from diffpolicy.cli.demonstrations import run_folders
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.suites.results import target, targets_table, write
from diffpolicy.cli.suites.rti_document import Found, markdown, targets
from diffpolicy.cli.suites.rti_jobs import jump_jobs
from diffpolicy.cli.suites.rti_page import family_of, write_page
from diffpolicy.evaluation import Episode, tabulate
from diffpolicy.evaluation.summary import Episodes

SCORES = {
    "ddpm_100@1": 0.6,
    "ddim_3@1": 0.5,
    "rti_2_1_0@1": 0.58,
    "rti_9_7_5_3_0@1": 0.9,  # five evaluations: over the budget
    "soft_20_10@1": 0.59,
    "ddpm_100@8": 0.9,
    "ddim_3@8": 0.85,
    "warm_60_30_10@8": 0.89,
    "ddim_10@8": 0.95,
}
LATENCY = {"eager": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}}


def episodes(score: float, length: int = 300) -> Episodes:
    return tuple(
        tuple(Episode(10 * k + i, 0.0, 0.0, length, False, False, score) for i in range(4)) for k in range(2)
    )


@pytest.fixture
def found() -> Found:
    played = {arm: episodes(score) for arm, score in SCORES.items()}
    return Found(
        task=envs.task("PushT"),
        network="edm",
        table=tabulate("PushT", "best_reward", played, reference="ddpm_100@8"),
        per_chunk={
            arm: float(arm.split("_")[1].split("@")[0]) if arm[0] == "d" else arm.count("_") for arm in SCORES
        },
        latency=dict.fromkeys(SCORES, LATENCY),
        delays={("naive", 0.0): episodes(0.9), ("naive", 0.2): episodes(0.7)},
        jumps={
            ("rti_2_1_0@1", True): episodes(0.5),
            ("rti_2_1_0@1", False): episodes(0.6),
            ("rti_2_1_0_guard@1", True): episodes(0.55, length=70),
            ("rti_2_1_0_guard@1", False): episodes(0.6),
        },
        judged_by=["ddim_3", "rti_3_2_1_0"],
        weights=["a", "b"],
        jump_at=80,
    )


@pytest.fixture
def document(found: Found) -> dict[str, Any]:
    return {
        "command": "diffpolicy benchmark rti",
        "commit": {"commit": "abc", "sha256": "0", "dirty": False},
        "machine": {"cpu": "one", "cores": 2, "accelerator": None, "system": "Linux"},
        "seeds": [0, 1],
        "episodes": {"PushT": 4},
        "seed": 0,
        "rows": found.rows,
        "delays": found.delay_rows,
        "jumps": found.jump_rows,
        "targets": targets(found),
    }


def test_targets_compare_the_best_within_their_budgets(found: Found) -> None:
    every_step, any_horizon, warm, _, chunk, judged = targets(found)
    assert "rti_2_1_0@1 / ddpm_100@1" in every_step["name"]
    assert every_step["value"] == pytest.approx(0.58 / 0.6, abs=1e-4)
    assert every_step["met"]
    assert "rti_2_1_0@1 / ddim_10@8" in any_horizon["name"]
    assert not any_horizon["met"]
    assert "soft_20_10@1 / ddpm_100@1" in warm["name"]
    assert "warm_60_30_10@8 / ddpm_100@8" in chunk["name"]
    assert chunk["met"]
    assert chunk["interval"] == [0.9889, 0.9889]
    assert (judged["value"], judged["met"]) == (1, True)


def test_the_jump_rows_pair_guard_and_none(found: Found) -> None:
    plain, guarded = found.jump_rows
    assert plain["guard_adds"] is None
    assert plain["lost"]["mean"] == pytest.approx(-0.1)
    assert guarded["guard_adds"]["mean"] == pytest.approx(0.05)
    assert (plain["over_before_jump"], guarded["over_before_jump"]) == (0, 8)


def test_the_markdown_has_every_row(document: dict[str, Any]) -> None:
    text = markdown(document) + targets_table(document["targets"])
    assert all(f"| {arm} |" in text for arm in SCORES)
    assert "| naive | 200 | 0.700 [0.700, 0.700] |" in text
    assert "1.00 / 2.00 / 3.00 / 4.00" in text
    assert "**missed**" in text


def test_the_page_stands_alone(document: dict[str, Any], tmp_path: Path) -> None:
    text = write_page(json.loads(json.dumps(document)), tmp_path / "rti.json").read_text()
    assert text.count("<svg") == 3
    assert "4 of 6 targets met" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    pictures = {path.name for path in tmp_path.iterdir()}
    assert {"rti_score_pusht_edm.png", "rti_delay_pusht_edm.svg", "rti_jump_pusht_edm.png"} <= pictures


@pytest.mark.parametrize(
    ("arm", "family"),
    [
        ("ddpm_100@1", ("DDPM", "100")),
        ("leading_ddim_3@8", ("leading DDIM", "3")),
        ("rti_5_3_1_0_guard@1", ("RTI + guard", "5,3,1,0")),
        ("warm_sde_60_30@8", ("warm, ancestral jumps", "60,30")),
        ("soft_20_10_3@1", ("warm, committed", "20,10,3")),
        ("streaming@8", ("streaming", "")),
        ("reuse@8", ("reuse", "")),
    ],
)
def test_arms_belong_to_families(arm: str, family: tuple[str, str]) -> None:
    assert family_of(arm) == family


def test_a_small_suite_runs_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    results = tmp_path / "results" / "rti.json"
    arguments = [
        "benchmark",
        "rti",
        "~tasks.pick-place-v3",
        "~networks.epsilon",
        "~networks.streaming",
        f"run={tmp_path / 'run'}",
        f"results={results}",
        "seeds=[0]",
        "episodes=1",
        "arms=[ddim_1,rti_0]",
        "executions=[8]",
        "latency.decisions=20",
        "delays.tasks=[]",
        "jump.tasks=[]",
        "policy.optimizer.updates=2",
        "policy.network.hidden=[16]",
        "judge=null",
        "checkpoint_every=2",
        "log_every=1",
        "progress=false",
    ]
    assert dispatch(arguments) == 0
    document = json.loads(results.read_text())
    assert [row["arm"] for row in document["rows"]] == ["ddim_1@8", "rti_0@8"]
    assert document["rows"][0]["evaluations_per_step"] == pytest.approx(38 / 300)
    assert document["rows"][0]["latency_ms"]["eager"]["decisions"] >= 20
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("results/*.json")}
    assert len(kept) == 4
    assert dispatch(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_jump_test_of_successes_is_refused() -> None:
    """Nobody notes when an episode succeeded: before the jump would count as after it."""
    asked = OmegaConf.create(
        {"jump": {"tasks": ["pick-place-v3"], "networks": ["edm"], "at": 80, "arms": []}}
    )
    trained = SimpleNamespace(task=envs.task("pick-place-v3"), network="edm")
    with pytest.raises(ConfigError, match="scored by success"):
        jump_jobs(asked, trained, None)  # type: ignore[arg-type]


def test_every_seed_is_found_in_its_own_folder(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        (tmp_path / f"seed-{seed}").mkdir()
    assert [path.name for path in run_folders(tmp_path, [2, 0])] == ["seed-2", "seed-0"]
    with pytest.raises(ConfigError, match="seed-0, seed-1, seed-2"):
        run_folders(tmp_path, [2])
    (tmp_path / "one" / "checkpoints").mkdir(parents=True)
    assert run_folders(tmp_path / "one", [7]) == [tmp_path / "one"]
    with pytest.raises(ConfigError, match="a run of one seed"):
        run_folders(tmp_path / "one", [0, 1])


def test_a_target_with_an_unbounded_interval_can_be_written(tmp_path: Path) -> None:
    row = target("ratio", ">= 1", 2.0, (0.5, math.inf), False)
    assert row["interval"] is None
    write({"targets": [row]}, "", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["targets"] == [row]
