"""The pipeline as a user types it, small: killed, whole, again, changed, refused; and the demo, which is one."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffpolicy import data, training
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.evaluation.certificate import read_certificate

TRAIN = ["critic_updates=30", "actor_updates=30", "critic.hidden=[16]", "actor.hidden=[16]", "actor.batch=32"]
UPDATES = 400  # of the world model: time enough to kill it
WORLD = [
    f"updates={UPDATES}",
    "members=2",
    "hidden=[16]",
    "head_hidden=[8]",
    "learning_rate=5e-3",
    "batch=64",
]
REFINE = [
    "method=lagrangian",
    "gaussian.hidden=[16]",
    "clone.updates=40",
    "branches.count=16",
    "branches.horizon=5",
    "refine.iterations=2",
    "refine.updates=2",
    "refine.imagination.warm_up=1",
    "value.hidden=[16]",
    "value.data_epochs=1",
    "checkpoint_every=2",
    "log_every=1",
    "gate.cost_rate=0",
]
OPEN = ["gate.margin=1", "gate.uncertainty=1e6", "gate.start_uncertainty=1e6", "gate.gap=1e6"]
SMALL = [
    "task=PointRobot",
    "progress=false",
    *(f"train.policy.{each}" for each in TRAIN),
    *(f"train.{each}" for each in ("checkpoint_every=10", "log_every=10")),
    *(f"world.world_model.{each}" for each in WORLD),
    *(
        f"world.{each}"
        for each in ("judge.every=400", "judge.starts=8", "starts=40", "checkpoint_every=20", "film.starts=0")
    ),
    *(f"refine.{each}" for each in REFINE),
    "evaluate.episodes=2",
    "evaluate.arms=[bc_safe,best_feasible_4]",
]
COLLECT = "collect.steps=4000"
GENEROUS = [f"refine.{each}" for each in OPEN]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pipeline that was killed while it learnt the world model."""
    run = tmp_path_factory.mktemp("pipeline") / "run"
    program = [sys.executable, "-m", "diffpolicy", "pipeline", f"run={run}", *SMALL, *GENEROUS, COLLECT]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(run.glob("world/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the world model was ready before it could be killed"
    assert 0 < training.read_checkpoint(run / "world").step < UPDATES
    assert {path.parent.name for path in run.glob("*/stage.json")} == {"collect", "critics"}
    return run


@pytest.fixture(scope="module")
def done(killed: Path) -> Path:
    """Return the folder of a whole pipeline, which went on where it was killed."""
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("stage.json")}
    assert dispatch(["pipeline", f"run={killed}", *SMALL, *GENEROUS, COLLECT]) == 0
    assert before.items() <= {path: path.stat().st_mtime_ns for path in killed.rglob("stage.json")}.items()
    assert training.read_checkpoint(killed / "world").step == UPDATES
    return killed


@pytest.fixture
def trained(done: Path, tmp_path: Path) -> Path:
    """Return a copy of it in which nothing has been refined yet."""
    run = tmp_path / "run"
    shutil.copytree(done, run, ignore=shutil.ignore_patterns("refined", "report"))
    return run


def test_every_stage_leaves_its_run_in_one_folder(done: Path) -> None:
    stages = {path.parent.name for path in done.glob("*/stage.json")}
    assert stages == {"collect", "critics", "world", "refined", "report"}
    hashed = data.sha256(done / "collect" / "point_robot.hdf5")
    assert training.read_checkpoint(done / "critics").manifest["data"]["sha256"] == hashed
    world = training.read_checkpoint(training.best_checkpoint(done / "world")).manifest
    released = training.read_checkpoint(done / "refined" / "released").manifest
    assert released["world_model"]["weights"] == world["sha256"]["model.safetensors"]


def test_offline_arms_and_the_refined_policy_play_the_same_episodes(done: Path) -> None:
    certificate = read_certificate(done / "report" / "certificate.json")
    arms = {arm.name: arm for arm in certificate.evaluation.arms}
    assert list(arms) == ["bc_safe", "best_feasible_4", "start", "refined"]
    seeds = {tuple(each.seed for row in arm.episodes for each in row) for arm in arms.values()}
    assert seeds == {(10_000, 10_001)}
    refined = training.read_checkpoint(done / "refined" / "released").manifest
    weights = {arm["name"]: arm["weights"] for arm in certificate.document["arms"]}
    assert weights["refined"] == [refined["sha256"]["model.safetensors"]]
    assert certificate.document["manifest"]["refinement"] == [refined["refinement"]]
    report = (done / "report" / "report.html").read_text()
    assert "refined on PointRobot" in report
    assert "Refined in imagination" in report
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_the_same_command_again_does_nothing_and_says_the_same(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    assert dispatch(["pipeline", f"run={done}", *SMALL, *GENEROUS, COLLECT]) == 0
    lines = capsys.readouterr().out.splitlines()
    skipped = [line.partition(":")[0] for line in lines if ": done" in line]
    assert skipped == ["collect", "train", "world", "refine", "evaluate"]
    text = "\n".join(lines)
    assert "refined - start" in text
    assert "gate, seed 0: released" in text
    assert before == {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("word", "stage", "says"),
    [
        ("collect.steps=5000", "collect", "steps: 4000 -> 5000"),
        ("train.policy.actor_updates=31", "train", "policy.actor_updates: 30 -> 31"),
        ("world.world_model.members=3", "world", "world_model.members: 2 -> 3"),
        ("refine.refine.clip=0.1", "refine", "refine.clip: 0.2 -> 0.1"),
        ("evaluate.episodes=3", "evaluate", "episodes: 2 -> 3"),
    ],
)
def test_other_settings_of_a_finished_stage_are_refused(
    done: Path, word: str, stage: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["pipeline", f"run={done}", *SMALL, *GENEROUS, COLLECT, word]) == 2
    error = capsys.readouterr().err
    assert f"the stage {stage} is finished with other settings" in error
    assert says in error


def test_how_a_finished_stage_was_shown_may_change(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train.log_every=5", "world.threads=2", "train.checkpoint_every=7"]
    assert dispatch(["pipeline", f"run={done}", *SMALL, *GENEROUS, COLLECT, *words]) == 0
    assert capsys.readouterr().out.count(": done") == 5


def test_a_policy_that_the_gate_refuses_is_a_result(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [COLLECT, *GENEROUS, "refine.gate.uncertainty=0"]
    assert dispatch(["pipeline", f"run={trained}", *SMALL, *words]) == 0
    assert "gate, seed 0: refused: imagined episodes are" in capsys.readouterr().out
    assert not (trained / "refined" / "released").exists()
    certificate = read_certificate(trained / "report" / "certificate.json")
    assert "refined" in [arm.name for arm in certificate.evaluation.arms]  # what it would have done is shown
    assert not certificate.document["manifest"]["refinement"][0]["released"]
    assert "best_feasible_4 on PointRobot" in (trained / "report" / "report.html").read_text()


def test_a_start_that_the_gate_refuses_is_one_too(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [COLLECT, *GENEROUS, "refine.gate.start_uncertainty=0"]
    for _ in range(2):
        assert dispatch(["pipeline", f"run={trained}", *SMALL, *words]) == 0
        said = capsys.readouterr().out
        assert "There is no refined policy" in said
        assert "nothing was refined: the policy to start from leaves" in said
    names = [arm.name for arm in read_certificate(trained / "report" / "certificate.json").evaluation.arms]
    assert names == ["bc_safe", "best_feasible_4", "start"]
    assert json.loads((trained / "refined" / "stage.json").read_text())["outcome"]["refused"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.presett=fast"], "did you mean 'preset'?"),
        (["train.policy.critic.hiden=[8]"], "did you mean 'policy.critic.hidden'?"),
        (["train.preset=fest"], "did you mean 'fast'?"),
        (["refine.world=elsewhere"], "refine.world follows from the pipeline's own options"),
        (["train.task=CarRun"], "train.task follows from"),
        (["settings=['lern.preset=fast']"], "there is no stage 'lern'"),
        (["evaluate.limits=[20]"], "refine.limit=10"),
        (["train.policy=diffusion_mlp"], "policy"),
        (["seeds=[]"], "seeds must name"),
        (["seeds=[1,1]"], "seeds must name"),
        (["task=pusht"], "chain the verbs yourself"),
        (["data=nowhere.hdf5"], "no such file"),
        (["data=nowhere.hdf5", "collect.steps=4000"], "leave one of them out"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = [word for word in SMALL if not any(word.split("=")[0] == each.split("=")[0] for each in words)]
    assert dispatch(["pipeline", f"run={run}", *given, *words]) == 2
    assert says in capsys.readouterr().err
    assert not list(run.glob("*/checkpoints"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("refine.value.gamma=1", "gamma lies in"),
        ("refine.gate.margin=2", "the margin at most 1"),
        ("refine.refine.iterations=0", "one or more iterations"),
        ("refine.lagrangian.margin=0", "a margin is above 0"),
        ("refine.limit=null", "limit=None"),
        ("world.world_model.members=1", "two members or more"),
        ("world.world_model=pixel_tiny", "models of states"),
    ],
)
def test_what_no_policy_could_be_refined_with_is_refused_before_anything_is_trained(
    tmp_path: Path, word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = [each for each in SMALL if each.startswith(("task", "progress", "refine.method"))]
    assert dispatch(["pipeline", f"run={run}", *given, word]) != 0
    assert says in capsys.readouterr().err
    assert not [path for path in run.glob("[!.]*") if path.is_dir()]


def test_the_demo_is_a_pipeline_of_two_training_seeds(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, dataset = tmp_path / "demo", done / "collect" / "point_robot.hdf5"
    # Whether four updates make a policy better or worse is luck, and both are kept here.
    words = [*SMALL, *GENEROUS, "refine.save_refused=true"]
    assert dispatch(["demo", f"run={run}", f"data={dataset}", *words]) == 0
    said = capsys.readouterr().out
    assert "gate, seed 0: re" in said
    assert "gate, seed 1: re" in said
    evaluation = read_certificate(run / "report" / "certificate.json").evaluation
    assert {arm.summary.training_seeds for arm in evaluation.arms} == {2}
    both = [training.read_checkpoint(run / "refined" / f"seed-{seed}" / "released") for seed in (0, 1)]
    assert both[0].manifest["sha256"] != both[1].manifest["sha256"]
    assert both[0].manifest["world_model"] != both[1].manifest["world_model"]
