"""The verb align as a user types it, small: digits, a pipeline, a policy; stopped and resumed; and what goes wrong."""

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import envs
from diffpolicy import training
from diffpolicy.alignment import Aligner
from diffpolicy.alignment.rewards import JPEGSize, serve_reward
from diffpolicy.cli import align
from diffpolicy.cli.align_subjects import prompts_of
from diffpolicy.cli.align_summary import summary
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.errors import ConfigError
from diffpolicy.policies.alignment_episodes import Episodes

ROOT = Path(__file__).parents[2]
TINY = [
    "digits.updates=20",
    "digits.steps=4",
    "align.iterations=3",
    "online.groups=2",
    "online.group_size=4",
    "monitor.every=2",
    "monitor.samples=8",
    "monitor.rule.manifold=null",
    "monitor.rule.diversity=null",
    "progress=false",
    "threads=1",
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFPOLICY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_digits_end_with_base_and_aligned_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["align", f"run={tmp_path}", *TINY]) == 0
    out = capsys.readouterr().out
    for row in ("reward ", "gold ", "distance to real samples", "diversity", "report: "):
        assert row in out
    assert "Settings" in (tmp_path / "report.html").read_text()
    assert training.read_curves(tmp_path)["monitor/proxy"][0] == [2, 4, 6]
    manifest = training.read_checkpoint(tmp_path).manifest
    assert manifest["method"] == "align"
    assert manifest["alignment"] == {"model": "digits", "objective": "nft", "reward": "own"}


def test_an_interrupted_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Aligner.update

    def interrupted(aligner: Aligner, step: int) -> dict[str, object]:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return update(aligner, step)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert dispatch(["align", f"run={whole}", *TINY]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Aligner, "update", interrupted)
        assert dispatch(["align", f"run={stopped}", *TINY]) == 130
    assert f"run={stopped}" in capsys.readouterr().err
    assert training.read_checkpoint(stopped).step == 4
    assert dispatch(["align", f"run={stopped}", *TINY]) == 0
    first, second = training.read_checkpoint(whole), training.read_checkpoint(stopped)
    assert first.step == second.step == 6
    assert first.manifest["sha256"] == second.manifest["sha256"]


@pytest.mark.parametrize("objective", ["rwr", "ddpo", "dpok", "draft_lv", "find", "sft"])
def test_other_families_learn_on_the_digits(objective: str, tmp_path: Path) -> None:
    anchor = [] if objective in ("sft", "find") else ["anchor=0.1"]
    assert dispatch(["align", f"objective={objective}", f"run={tmp_path}", *anchor, *TINY]) == 0
    assert training.read_checkpoint(tmp_path).step == 6


def test_a_frozen_denoiser_leaves_what_was_learnt_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["align", "objective=find", f"run={tmp_path}", *TINY]) == 0
    assert "learnt:     owned.0.noise.*" in capsys.readouterr().out
    assert "owned.0.noise.now.mean" in training.read_checkpoint(tmp_path).model


def test_rewards_are_counted_up_to_the_best_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch(["align", f"run={tmp_path}", "log_every=3", *TINY]) == 0
    fourth = tmp_path / "checkpoints" / "step-00000004"
    monkeypatch.setattr(training, "best_checkpoint", lambda run: fourth)
    assert (
        "update 4 (16 rewards)" in summary(tmp_path)[0]
    )  # of the third, the newest in the log; 24 in the end


def test_comparisons_in_a_file_are_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.npz"
    np.savez(file, winner=np.ones((8, 64), np.float32), loser=np.zeros((8, 64), np.float32))
    words = ["align", "objective=diffusion_dpo", f"data={file}", *TINY]
    command, before = ([*words, f"run={tmp_path / name}"] for name in ("run", "before"))
    assert dispatch(command) == 0
    curves = training.read_curves(tmp_path / "run")
    assert "winner_error" in curves
    assert set(curves["reward_calls"][1]) == {0.0}
    with monkeypatch.context() as patched:
        patched.setattr(align, "FILES", ())  # a run from before files were kept by their hashes
        assert dispatch(before) == 0
    np.savez(file, winner=np.zeros((8, 64), np.float32), loser=np.ones((8, 64), np.float32))
    capsys.readouterr()
    assert dispatch(command) != 0
    assert "sha256.data" in capsys.readouterr().err
    assert dispatch(before) == 0


def test_prompts_of_another_encoding_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("un café".encode("latin-1"))
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        prompts_of(OmegaConf.create({"prompts": str(file)}))


def test_a_pipeline_leaves_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(ROOT))
    from tests.alignment.pipelines.conftest import build

    build("sd").save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    words = [
        "align",
        f"model={tmp_path / 'model'}",
        f"prompts={tmp_path / 'prompts.txt'}",
        "pipeline.steps=3",
    ]
    small = ["align.iterations=1", "online.groups=2", "online.group_size=2", "monitor.samples=4"]
    assert dispatch([*words, "reward=jpeg", f"run={tmp_path / 'run'}", *small, "progress=false"]) == 0
    assert (tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    assert "load_lora_weights" in capsys.readouterr().out
    assert dispatch([*words, f"run={tmp_path / 'none'}"]) == 2
    assert "reward=jpeg" in capsys.readouterr().err
    build("ddpm").save_pretrained(tmp_path / "unprompted")
    words = ["align", f"model={tmp_path / 'unprompted'}", "reward=jpeg", "pipeline.steps=3"]
    assert dispatch([*words, f"run={tmp_path / 'pictures'}", *small, "progress=false"]) == 0
    assert "adapter:    none" in capsys.readouterr().out


def test_a_server_rates_digits_and_its_token_stays_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFPOLICY_REWARD_TOKEN", "sesame")
    server = serve_reward(JPEGSize(), token="sesame")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"reward.url=http://127.0.0.1:{server.server_port}"
    words = ["reward=http", url, "reward.retries=0", f"run={tmp_path / 'run'}"]
    assert dispatch(["align", *words, *TINY]) == 0
    server.shutdown()
    server.server_close()
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"sesame" in file.read_bytes() for file in kept)
    patient = [
        "reward.retries=1",
        "reward.timeout=300",
        words[-1],
    ]  # of the same run: it learns nothing from these
    assert dispatch(["align", *words[:2], *patient, *TINY]) == 0
    assert dispatch(["align", *words[:3], f"run={tmp_path / 'gone'}", *TINY]) == 1
    assert f"127.0.0.1:{server.server_port}" in capsys.readouterr().err


def test_a_policy_stays_one_that_every_verb_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gym_pusht")
    run, aligned = tmp_path / "run", tmp_path / "aligned"
    small = [
        "policy.network.hidden=[16]",
        "policy.optimizer.updates=2",
        "policy.optimizer.batch=16",
        "judge=null",
    ]
    assert dispatch(["train", "policy=diffusion_mlp", "task=pusht", f"run={run}", *small]) == 0
    words = [
        "align",
        f"model={run}",
        f"run={aligned}",
        "progress=false",
        "online.groups=1",
        "online.group_size=2",
    ]
    few = ["align.iterations=1", "policy.decisions=2", "policy.judge.episodes=1", "policy.until_best=false"]
    assert dispatch([*words, *few]) == 0
    printed = capsys.readouterr().out
    assert f"diffpolicy evaluate checkpoint={aligned}" in printed
    assert re.search(r"score: .*; \d\.\d{3} before", printed)
    arms = ["arms=[ddim_5@8]", "headline=ddim_5@8", "reference=ddim_5@8", "episodes=1"]
    assert dispatch(["evaluate", f"checkpoint={aligned}", *arms, f"run={tmp_path / 'out'}"]) == 0
    for mistake, message in (
        ("reward=jpeg", "rated by its task"),
        ("objective=draft_k", "episodes are not rated by one"),
        ("policy.steps=some", "policy.steps must be int"),
        ("prompts=[a]", "only pipelines do"),
        ("online.solver=ddpm", "have no online.solver"),
        ("online.advantages=group", "global or softmax, not group"),
        ("policy.executed=0", "one action or more"),
        ("policy.minimum_std=-1", "0 or more, got -1"),
    ):
        assert dispatch([*words, mistake]) == 2
        assert message in capsys.readouterr().err
    opened: list[Any] = []
    closed: list[Any] = []
    make = envs.make_vector

    def recorded(*arguments: Any, **options: Any) -> Any:
        opened.append(make(*arguments, **options))
        close = opened[-1].close
        opened[-1].close = lambda: closed.append(close())
        return opened[-1]

    monkeypatch.setattr(envs, "make_vector", recorded)
    for mistake, message in (
        ("objective=d3po", "cannot learn from episodes"),
        ("online.advantages=global", "takes weights"),
    ):
        assert dispatch([*words, "objective=rwr", mistake]) == 1
        assert message in capsys.readouterr().err
    played: list[Episodes] = []
    gather = Episodes.gather
    monkeypatch.setattr(
        Episodes, "gather", lambda self, *given: (played.append(self), gather(self, *given))[1]
    )
    # What makes steps is what scores them: this deviation lies above that of all but the first of them.
    ddpo = ["objective=ddpo", "policy.minimum_std=0.5", f"run={tmp_path / 'ddpo'}", "policy.judge=null"]
    assert dispatch([*words, *few[:2], *ddpo]) == 0
    assert played[0].config.rule.minimum_std == 0.5
    assert len(opened) == len(closed) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective=nfft"], "did you mean 'nft'"),
        (["reward=jpg"], "did you mean 'jpeg'"),
        (["objective.bta=1"], "did you mean 'objective.beta'"),
        (["objective.beta=-1"], "beta > 0"),
        (["objective.beta=high"], "objective.beta must be float"),
        (["online.group_size=1"], "two samples or more"),
        (["model=nowhere", "reward=jpeg"], "model=nowhere is none: neither digits, nor a folder"),
        (["model={folder}", "reward=jpeg"], "model_index.json"),
        (["prompts=[a]"], "only pipelines do"),
        (["gold=jpeg"], "reward@gold=NAME"),
        (["reward=digits_three", "reward.digit=12"], "from 0 to 9, not 12"),
        (["reward=jpeg", "reward.quality=high"], "reward.quality must be int"),
        (["reward=http", "reward.url=http://here:99999"], "http://host:port"),
        (["objective=ddpo", "online.rule.eta=0"], "eta > 0"),
        (["objective=rwr", "online.temperature=0"], "temperature"),
        (["objective.draws=2.5"], "objective.draws must be int"),
        (["digits.updates=0"], "at least 1 update"),
        (["seed=abc"], "a whole number"),
        (["checkpoint_every=often"], "at least 1 update"),
        (["threads=some"], "at least 1"),
        (["reward=pickscore"], "needs reward.path=..."),
        (["reward=clip", "reward.path=/nowhere"], "no folder /nowhere"),
        (["objective=draft_k", "reward=jpeg"], "JPEGSize has none"),
        (["data=nowhere.npz"], "no such file"),
        (["data={wrong}"], "comparisons are 'winner' and 'loser'"),
        (["data={scalar}"], "samples of this model are (64,)"),
        (["data={text}"], "not a .npz file"),
        (["data={damaged}"], "is damaged"),
        (["data={clean}"], "learns from its own samples"),
        (["anchor=-1"], "a weight of 0 or more"),
        (["anchor=nan"], "a weight of 0 or more"),
        (["anchor=1", "objective=sft"], "leave anchor out"),
        (["anchor=1", "objective=find"], "FIND leaves the denoiser as it is, and SFT beside it"),
        (["objective=rwr", "online.advantages=global"], "leave advantages at 'softmax'"),
        (["objective=rwr", "+objective.beta=5"], "no option 'beta'"),
        (["model={pipeline}", "prompts=[a]", "reward@gold=jpeg"], "give it as reward=jpeg"),
        (["digits.network=mpl"], "mlp, unet"),
        (["log_every=0"], "at least 1 update"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, scalar = tmp_path / "wrong.npz", tmp_path / "scalar.npz"
    np.savez(wrong, pictures=np.zeros((2, 64)))
    np.savez(scalar, clean=np.zeros(2))
    text, damaged, clean = tmp_path / "text.npz", tmp_path / "damaged.npz", tmp_path / "clean.npz"
    text.write_text("not an archive")
    np.savez(clean, clean=np.zeros((8, 64)))
    content = bytearray(clean.read_bytes())
    content[300] ^= 255
    damaged.write_bytes(content)
    files = {"wrong": wrong, "scalar": scalar, "text": text, "damaged": damaged, "clean": clean}
    files["pipeline"] = tmp_path / "pipeline"
    files["pipeline"].mkdir()
    (files["pipeline"] / "model_index.json").write_text("{}")
    given = [word.format(folder=tmp_path, **files) for word in words]
    assert dispatch(["align", f"run={tmp_path / 'run'}", *TINY, *given]) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert message in error


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "align.md").read_text(), flags=re.DOTALL)
    exec(compile(snippet, "docs/align.md", "exec"), {"__name__": "example"})  # noqa: S102
    assert training.read_checkpoint(tmp_path / "runs" / "mine").step == 20


def test_what_digits_say_of_digits_can_be_watched(tmp_path: Path) -> None:
    words = ["reward=jpeg", "reward@gold=digits_three", "gold.digit=7"]
    assert dispatch(["align", f"run={tmp_path}", *words, *TINY]) == 0
    assert all(value < 0.0 for value in training.read_curves(tmp_path)["monitor/gold"][1])
