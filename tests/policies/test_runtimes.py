"""Compiled sampling loops compute what the loop computes, from a file as well, and say what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from diffpolicy.policies import ChunkPolicy, runtime_backends
from diffpolicy.policies.acting import chunk_policy
from diffpolicy.policies.chunk_config import ConditioningConfig, DiffusionConfig, NetworkConfig
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.inference import Inference
from diffpolicy.policies.policy import Observation
from diffpolicy.policies.runtimes import (
    ParityError,
    Runtime,
    check_parity,
    compile_inference,
    load_sampler,
)
from envs.layout import Body, Layout

PLAIN = ConditioningConfig("v")
LAYOUT = Layout(agent=(0, 1), agent_scale=0.5, angles=(4,), bodies=(Body((2, 3), 4),))
NETWORKS = {
    "mlp": NetworkConfig("mlp", hidden=[16], step_embedding=8),
    "unet": NetworkConfig("unet", channels=[8, 16], groups=4, kernel=3, step_embedding=8),
    "transformer": NetworkConfig("transformer", layers=1, heads=2, width=16),
}
GEOMETRIC = ConditioningConfig("edm", relative=True, dct=True, features="geometric", newest_only=True)


def _model(kind: str = "mlp", conditioning: ConditioningConfig = GEOMETRIC) -> ChunkModel:
    config = DiffusionConfig(2, 8, 4, network=NETWORKS[kind], conditioning=conditioning)
    model = ChunkModel(config, 5, 2, LAYOUT, torch.Generator().manual_seed(0))
    return model.requires_grad_(False).eval()


def _inference(model: ChunkModel, name: str) -> Inference:
    """What an arm does at every decision but the first."""
    policy = chunk_policy(model, name)
    assert isinstance(policy, ChunkPolicy)
    return policy.warm or policy.cold


def _inputs(inference: Inference, batch: int = 1, seed: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, 2, 5, generator=generator)
    noise = torch.randn(inference.sampler.draws, batch, 8, 2, generator=generator)
    guess = torch.randn(batch, 8, 2, generator=generator)
    return (states, noise) if inference.warm is None else (states, noise, guess)


def _agree(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.fixture
def onnx() -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("mlp", "ddim_2"),
        ("mlp", "warm_60_30"),
        ("mlp", "soft_20_3"),
        ("unet", "dpm_2"),
        ("transformer", "heun_2"),
    ],
)
@pytest.mark.usefixtures("onnx")
def test_onnx_runtime_equals_the_inference(kind: str, name: str) -> None:
    inference = _inference(_model(kind, GEOMETRIC if kind == "mlp" else PLAIN), name)
    compiled = compile_inference(inference, "onnx", batch=3)
    for seed in range(3):
        inputs = _inputs(inference, 3, seed)
        states, *rest = inputs
        _agree(compiled(*inputs), inference(Observation(states), *rest))


def test_the_eager_runtime_is_the_inference() -> None:
    inference = _inference(_model(), "rti_1_0")
    states, noise, guess = _inputs(inference)
    before = torch.get_num_threads()
    got = compile_inference(inference, "eager", threads=before + 1)(states, noise, guess)
    assert torch.get_num_threads() == before
    _agree(got, inference(Observation(states), noise, guess))


def test_inductor_equals_the_loop_in_every_mode() -> None:
    inference = _inference(_model(conditioning=PLAIN), "ddim_1")
    compiled = compile_inference(inference, "inductor")
    inputs = _inputs(inference)
    expected = compile_inference(inference, "eager")(*inputs)
    _agree(compiled(*inputs), expected)
    compiles = counters["stats"]["unique_graphs"]
    with torch.inference_mode():
        _agree(compiled(*inputs), expected)
    assert counters["stats"]["unique_graphs"] == compiles  # a robot does not wait for g++


def test_a_package_of_aotinductor_runs_in_another_process(tmp_path: Path) -> None:
    inference = _inference(_model(conditioning=PLAIN), "rti_0")
    path = tmp_path / "sampler.pt2"
    compiled = compile_inference(inference, "aoti", path=path)
    inputs = _inputs(inference)
    expected = compile_inference(inference, "eager")(*inputs)
    _agree(compiled(*inputs), expected)
    torch.save([*inputs, expected], tmp_path / "inputs.pt")
    check = (
        "import sys, torch; from pathlib import Path; from diffpolicy.policies.runtimes import load_sampler\n"
        "*inputs, expected = torch.load(sys.argv[2]); got = load_sampler(Path(sys.argv[1]))(*inputs)\n"
        "torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)"
    )
    no_compiler = os.environ | {"CXX": "false", "CC": "false"}
    command = [sys.executable, "-c", check, str(path), str(tmp_path / "inputs.pt")]
    subprocess.run(command, check=True, env=no_compiler)


@pytest.mark.usefixtures("onnx")
def test_a_file_equals_what_wrote_it_and_other_shapes_are_refused(tmp_path: Path) -> None:
    inference = _inference(_model(), "rti_1_0")
    path = tmp_path / "sampler.onnx"
    compiled = compile_inference(inference, "onnx", path=path)
    loaded = load_sampler(path)
    inputs = _inputs(inference)
    assert torch.equal(loaded(*inputs), compiled(*inputs))
    draws = inference.sampler.draws
    assert loaded.shapes == {"states": (1, 2, 5), "noise": (draws, 1, 8, 2), "guess": (1, 8, 2)}
    with pytest.raises(PolicyError, match="compiled for inputs"):
        loaded(*inputs[:2])
    with pytest.raises(PolicyError, match="compiled for inputs"):
        loaded(*_inputs(inference, batch=2))


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("arm", ["ddim_2@4", "rti_1_0@1", "soft_20_3@1"])
def test_a_policy_on_a_compiled_runtime_decides_as_the_plain_one(arm: str) -> None:
    model = _model()
    plain = chunk_policy(model, arm)
    fast = chunk_policy(model, arm, sampling=lambda inference: compile_inference(inference, "onnx"))
    memories = [policy.start(1, seed=3) for policy in (plain, fast)]
    states = torch.randn(3, 1, 2, 5, generator=torch.Generator().manual_seed(1))
    for state in states:  # cold, then warm where the arm is
        expected, memories[0] = plain.act(Observation(state), memories[0])
        got, memories[1] = fast.act(Observation(state), memories[1])
        _agree(got.actions, expected.actions)


def test_a_loop_that_differs_is_refused() -> None:
    expected = torch.zeros(1, 8, 2)
    assert check_parity(lambda: expected + 5e-5, (), expected) == pytest.approx(5e-5)
    for wrong in (expected + 2e-4, expected * torch.nan):
        with pytest.raises(ParityError, match="eager"):
            check_parity(lambda wrong=wrong: wrong, (), expected)


def test_files_that_are_no_samplers_are_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="there is no compiled sampler"):
        load_sampler(tmp_path / "absent.onnx")
    for name in ("bad.pt2", "bad.onnx", "bad.txt"):
        (tmp_path / name).write_bytes(b"neither")
        if name == "bad.onnx":
            pytest.importorskip("onnxruntime")
        with pytest.raises(PolicyError, match=name):
            load_sampler(tmp_path / name)


@pytest.mark.parametrize(
    ("runtime", "file", "message"),
    [("jit", None, "eager, inductor"), ("onnx", "x.pt2", ".onnx"), ("eager", "x.pt2", "no file")],
)
def test_what_cannot_be_compiled_is_said(
    runtime: Runtime, file: str | None, message: str, tmp_path: Path
) -> None:
    model = _model()
    path = None if file is None else tmp_path / file
    with pytest.raises(PolicyError, match=message):
        compile_inference(_inference(model, "ddim_2"), runtime, path=path)


def test_pictures_are_not_compiled() -> None:
    config = DiffusionConfig(2, 8, 4, cameras=["front"], network=NETWORKS["mlp"])
    model = ChunkModel(config, 5, 2, Layout(), torch.Generator().manual_seed(0))
    with pytest.raises(PolicyError, match=r"states and noise only.*front"):
        compile_inference(_inference(model, "ddim_2"), "eager")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = _model()
    with pytest.raises(PolicyError, match=r"diffpolicy\[export\]"):
        compile_inference(_inference(model, "ddim_2"), "onnx")


def test_mish_with_one_exponential_is_mish() -> None:
    x = torch.linspace(-30, 60, 2001)
    torch.testing.assert_close(runtime_backends._mish(x), torch.nn.functional.mish(x), atol=1e-6, rtol=1e-6)
