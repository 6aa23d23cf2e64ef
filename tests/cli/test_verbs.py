"""The verbs as a user types them, small: collect, train, kill, resume, evaluate, bench, and what goes wrong."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffpolicy import data, training
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.evaluation.certificate import read_certificate
from diffpolicy.policies import parse_arm

TINY = [
    "policy.critic_updates=30",
    "policy.actor_updates=30",
    "policy.critic.hidden=[16]",
    "policy.actor.hidden=[16]",
    "policy.actor.batch=32",
    "checkpoint_every=10",
    "log_every=10",
    "progress=false",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "point_robot.hdf5"
    run = path.parent / "collect"
    arguments = ["collect", "task=PointRobot", "steps=4000", f"to={path}", f"run={run}", "progress=false"]
    assert dispatch(arguments) == 0
    return path


@pytest.fixture(scope="module")
def trained(dataset: Path) -> Path:
    run = dataset.parent / "trained"
    assert dispatch(["train", "task=PointRobot", f"data={dataset}", f"run={run}", "seeds=[3,4]", *TINY]) == 0
    return run


def test_collected_data_passes_its_own_check(dataset: Path) -> None:
    assert dispatch(["data", "check", str(dataset), "--task", "PointRobot"]) == 0
    assert data.load(dataset).num_episodes > 10


def test_a_trained_run_holds_what_acting_needs(trained: Path, dataset: Path) -> None:
    checkpoint = training.read_checkpoint(trained)
    assert checkpoint.manifest["task"] == "PointRobot-v0"
    assert checkpoint.manifest["seeds"] == [3, 4]
    assert checkpoint.manifest["data"]["sha256"] == data.sha256(dataset)
    assert all(0.0 <= share <= 1.0 for share in checkpoint.manifest["infeasible_share"])


def test_evaluate_writes_certificate_report_and_feasible_sets(trained: Path, dataset: Path) -> None:
    out = trained.parent / "evaluated"
    arguments = ["evaluate", f"checkpoint={trained}", f"run={out}", "episodes=2", f"data={dataset}"]
    assert dispatch([*arguments, "arms=[bc_safe,best_feasible_4]"]) == 0
    certificate = read_certificate(out / "certificate.json")
    assert [arm.name for arm in certificate.evaluation.arms] == ["bc_safe", "best_feasible_4"]
    assert certificate.evaluation.reference == "bc_safe"
    assert certificate.document["data"]["sha256"] == data.sha256(dataset)
    report = (out / "report.html").read_text()
    assert "best_feasible_4 on PointRobot" in report
    assert "v = 0.5 m/s" in report
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_a_mistyped_headline_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        dispatch(["evaluate", f"checkpoint={trained}", f"run={trained.parent}", "headline=best_feasable_4"])
        == 2
    )
    assert "best_feasible_4" in capsys.readouterr().err


def _train_command(dataset: Path, run: Path) -> list[str]:
    slow = [item for item in TINY if not item.startswith("policy.critic_updates")] + [
        "policy.critic_updates=4000"
    ]
    program = [sys.executable, "-m", "diffpolicy", "train", "task=PointRobot"]
    return [*program, f"data={dataset}", f"run={run}", "seeds=[0]", *slow]


def test_killed_training_resumes_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(_train_command(dataset, killed), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "training ended before it could be killed"
    stopped_at = training.read_checkpoint(killed).step
    assert 0 < stopped_at < 4030
    subprocess.run(_train_command(dataset, killed), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(_train_command(dataset, whole), check=True, stdout=subprocess.DEVNULL)
    first, second = training.read_checkpoint(killed), training.read_checkpoint(whole)
    assert first.step == second.step == 4030
    assert first.manifest["sha256"] == second.manifest["sha256"]


def test_bench_ends_with_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, extra in (("fisor-act", []), ("fisor-train", ["transitions=4000", "policy.actor.batch=32"])):
        small = ["seconds=0.01", "warmup=1", "policy.actor.hidden=[16,16]", f"run={tmp_path}", *extra]
        assert dispatch(["bench", name, *small]) == 0
        line = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert set(line) >= {"name", "value", "unit", "reference", "reference_name", "ratio", "machine"}
        assert line["name"] == name
        assert line["value"] > 0
        assert line["ratio"] == pytest.approx(line["value"] / line["reference"], rel=0.01)


def test_bench_of_decisions_times_arms_plain_and_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    small = ["policy.network.hidden=[16]", "decisions=5", "warmup=1", f"run={tmp_path}"]
    arms = "arms=[ddim_2@8,rti_5_3_1_0@1,ddpm_100@8]"
    assert dispatch(["bench", "latency", arms, *small]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = line["rows"]
    assert set(rows) == {
        *(f"{arm}/{runtime}" for arm in ("ddim_2@8", "rti_5_3_1_0@1") for runtime in ("eager", "onnx")),
        "ddpm_100@8/eager",
    }
    assert line["value"] == rows["rti_5_3_1_0@1/onnx"]["p99"]
    assert line["reference"] == rows["ddpm_100@8/eager"]["p50"]
    assert (
        dispatch(["bench", "unet", "policy.network.channels=[8,16]", "seconds=0.1", f"run={tmp_path}"]) == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reference_name"] == "plain PyTorch, ms"


def test_a_chunk_policy_is_trained_judged_calibrated_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gym_pusht")
    run = tmp_path / "run"
    small = ["policy.network.hidden=[16]", "policy.optimizer.updates=6", "policy.optimizer.batch=16"]
    judged = ["judge.every=3", "judge.episodes=1", "judge.film_frames=4"]
    command = ["train", "policy=diffusion_mlp", "task=pusht", "seeds=[0,1]", f"run={run}", *small, *judged]
    assert dispatch(command) == 0
    assert {path.name for path in run.glob("seed-*")} == {"seed-0", "seed-1"}
    curves = training.read_curves(run / "seed-0")
    assert curves["score/ddim_3"][0] == curves["score/rti_5_3_1_0"][0] == [3, 6]
    arm = "rti_5_3_1_0_guard@1"
    arms = [f"checkpoint={run}", f"arms=[{arm}]"]
    out = ["episodes=1", f"run={tmp_path / 'out'}"]
    assert dispatch(["evaluate", *arms, *out]) == 1
    assert "diffpolicy calibrate" in capsys.readouterr().err
    assert dispatch(["calibrate", *arms, f"run={tmp_path / 'calibrate'}"]) == 0
    assert "start level" in capsys.readouterr().out
    another = "rti_1_0_guard@1"
    assert dispatch(["calibrate", arms[0], f"arms={another}", f"run={tmp_path / 'calibrate'}"]) == 0
    assert arm in capsys.readouterr().out, "thresholds of other arms are kept"
    assert dispatch(["evaluate", *arms, *out, "reference=ddim_3"]) == 2
    assert "'ddim_3' is not evaluated" in capsys.readouterr().err
    assert dispatch(["evaluate", *arms, *out]) == 0
    document = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [row["arm"] for row in document["rows"]] == [arm]
    assert len(document["weights"]) == len(document["rows"][0]["score_by_seed"]) == 2
    assert (tmp_path / "out" / "video.mp4").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "task=BallCirlce"], "BallCircle"),
        (["train", "policy=diffusion_mlp", "task=pushtimage"], "data fetch pushtimage"),
        (["train", "policy=diffusion_mlp", "task=pusht", "policy.conditioning.prediction=eps"], "epsilon"),
        (["train", "policy=diffusion_mlp", "task=pusht", "seeds=[]"], "seeds"),
        (["train", "task=CarRun"], "data fetch CarRun"),
        (["train", "task=BallCircle", "data=nowhere.hdf5"], "no such file"),
        (["train", "task=BallCircle", "policy.actors=[fisr]"], "fisor"),
        (["train", "task=5"], "no task 5"),
        (["train", "task=BallCircle", "data=5"], "data=5: there is no such file"),
        (["train", "task=pusht"], "policy=diffusion_mlp"),
        (["train", "policy=diffusion_mlp", "task=FrankaKitchen"], "needs a dataset: pass data=FILE"),
        (["train", "policy=diffusion_mlp", "task=pusht", "policy.cameras=[camera]"], "PushTImage"),
        (["train", "policy=diffusion_mlp", "task=pushtimage", "data={pusht}"], "policy.cameras=[camera]"),
        (["train", "policy=diffusion_unet", "task=pusht", "policy.network.kernel=4"], "must be odd"),
        (["bench", "latency", "arms=[ddim_3@8]"], "is not among arms"),
        (["bench", "latency", "arms=[streaming,ddpm_100@8]", "headline=streaming"], "is not compiled"),
        (["train", "policy=diffusion_mlp", "task=pusht", "policy.process.levels=0"], "at least one step"),
        (["train", "policy=diffusion_mlp", "task=pusht", "judge.arms=[ddim_300]"], "100 levels"),
        (["train", "policy=diffusion_mlp", "task=pusht", "judge.arms=[rti_1_0_guard]"], "after training"),
        (["calibrate", "checkpoint=nowhere", "arms=[ddim_3]"], "ends in _guard"),
        (["calibrate", "checkpoint=nowhere", "elapsed=0"], "at least 1 control step"),
        (["collect", "task=FrankaKitchen"], "source=ppo"),
        (["train", "task=BallCircle", "log_every=0"], "log_every=0 must be at least 1"),
        (["train", "policy=diffusion_mlp", "task=pusht", "seeds=[0,a]"], "seeds: 'a' is of type str"),
        (["train", "task=BallCircle", "threads=0"], "threads=null"),
        (["data", "info", "{folder}"], "LeRobot"),
        (["data", "fetch", "frankakitchen"], "no published dataset to fetch: pass data=FILE"),
        (["train", "task=BallCircle", "policy.critic.gama=1"], "gamma"),
        (["train", "task=BallCircle", "device=gpu7"], "device"),
        (["train", "task=PointCircle1", "data={shipped}"], "another task"),
        (["collect", "task=PointRobot", "to={shipped}"], "extend=true"),
        (["evaluate"], "checkpoint=FOLDER"),
        (["evaluate", "checkpoint=nowhere"], "nowhere"),
        (["bench", "fisor-trian"], "fisor-train"),
        (["benchmark", "suite=safe"], "safe-offline"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = Path(__file__).parents[2] / "diffpolicy" / "assets" / "ball_circle.hdf5"
    given = [
        argument.format(shipped=shipped, pusht=shipped.with_name("pusht.npz"), folder=tmp_path)
        for argument in arguments
    ]
    folder = [] if given[0] == "data" else [f"run={tmp_path}"]
    assert dispatch([*given, *folder]) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert message in error


@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_help_says_what_arms_can_be(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):  # Hydra's own
        dispatch([verb, "--help"])
    lines = capsys.readouterr().out.split("== Groups")[0]
    examples = re.findall(r"arms=\[(.+?)\]", lines)
    assert examples
    assert all(parse_arm(name).name == name for example in examples for name in example.split(","))


def test_every_command_of_the_readme_is_one_that_exists(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    commands = re.findall(r"^(?:\$ )?diffpolicy (.+?)(?:\s+#.*)?$", readme, flags=re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command)
        if words[0] in ("data", "--help"):
            continue
        assert dispatch([*words, "--cfg", "job"]) == 0, command


def test_benchmark_keeps_targets_and_does_nothing_twice(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["BallCircle", "HalfCheetahVelocity", "PointCircle1", "BallRun", "CarRun"]
    run, results = tmp_path / "suite", tmp_path / "result.json"
    arguments = [
        "benchmark",
        "safe-offline",
        *(f"~tasks.{name}" for name in others),
        f"run={run}",
        f"results={results}",
        f"data_folder={dataset.parent}",
        "seeds=[0,1]",
        "episodes=2",
        "arms=[bc_safe,fisor,best_feasible_4]",
        "policy.actors=[safe,fisor]",
        *TINY,
    ]
    assert dispatch(arguments) == 0
    document = json.loads(results.read_text())
    assert [row["arm"] for row in document["rows"]] == ["bc_safe", "fisor", "best_feasible_4"]
    assert all(len(row["return_by_seed"]) == 2 for row in document["rows"])
    names = [target["name"] for target in document["targets"]]
    assert any("IoU" in name for name in names)
    assert all(isinstance(target["met"], bool) for target in document["targets"])
    assert "| PointRobot | best_feasible_4 |" in results.with_suffix(".md").read_text()
    written = (run / "PointRobot" / "certificate.json").stat().st_mtime_ns
    assert dispatch(arguments) == 0
    assert (run / "PointRobot" / "certificate.json").stat().st_mtime_ns == written
    assert json.loads(results.read_text())["rows"] == document["rows"]
