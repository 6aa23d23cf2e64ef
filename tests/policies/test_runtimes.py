"""Compiled sampling loops compute what the loop computes, from a file as well, and say what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from diffpolicy.diffusion import Sampler, trailing
from diffpolicy.policies import runtime_backends
from diffpolicy.policies.chunk_config import ConditioningConfig, DiffusionConfig, NetworkConfig
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.policy import Observation
from diffpolicy.policies.runtimes import (
    ParityError,
    Runtime,
    check_parity,
    compile_sampler,
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


def _sampler(model: ChunkModel, name: str) -> Sampler:
    levels = trailing(model.process.levels, 2)
    if name == "rti":
        return Sampler(model.process, "ddpm", (1, 0), single_index=True, clip=1.0)
    return Sampler(model.process, name, levels, clip=1.0)  # type: ignore[arg-type]


def _inputs(sampler: Sampler, warm: bool, batch: int = 1, seed: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, 2, 5, generator=generator)
    noise = torch.randn(sampler.draws, batch, 8, 2, generator=generator)
    start = torch.randn(batch, 8, 2, generator=generator)
    return (states, noise, start) if warm else (states, noise)


def _agree(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.fixture
def onnx() -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)


@pytest.mark.parametrize(
    ("kind", "name", "warm"),
    [
        ("mlp", "ddim", False),
        ("mlp", "ddim", True),  # needs no noise, and takes it all the same
        ("unet", "dpm_solver", False),
        ("transformer", "heun", False),
    ],
)
@pytest.mark.usefixtures("onnx")
def test_onnx_runtime_equals_the_loop(kind: str, name: str, warm: bool) -> None:
    conditioning = GEOMETRIC if kind == "mlp" else PLAIN
    model = _model(kind, conditioning)
    sampler = _sampler(model, name)
    compiled = compile_sampler(model, sampler, "onnx", batch=3, warm=warm)
    eager = compile_sampler(model, sampler, "eager", batch=3, warm=warm)
    for seed in range(3):
        inputs = _inputs(sampler, warm, 3, seed)
        _agree(compiled(*inputs), eager(*inputs))


def test_the_eager_runtime_is_the_sampler() -> None:
    model = _model()
    sampler = _sampler(model, "rti")
    states, noise, start = _inputs(sampler, True)
    expected = sampler.sample(model, model.encode(Observation(states)), noise, start)
    before = torch.get_num_threads()
    got = compile_sampler(model, sampler, "eager", warm=True, threads=before + 1)(states, noise, start)
    assert torch.get_num_threads() == before
    _agree(got, expected)


def test_inductor_equals_the_loop_in_every_mode() -> None:
    model = _model(conditioning=PLAIN)
    sampler = Sampler(model.process, "ddim", (40,), clip=1.0)
    compiled = compile_sampler(model, sampler, "inductor")
    inputs = _inputs(sampler, False)
    expected = compile_sampler(model, sampler, "eager")(*inputs)
    _agree(compiled(*inputs), expected)
    compiles = counters["stats"]["unique_graphs"]
    with torch.inference_mode():
        _agree(compiled(*inputs), expected)
    assert counters["stats"]["unique_graphs"] == compiles  # a robot does not wait for g++


def test_a_package_of_aotinductor_runs_in_another_process(tmp_path: Path) -> None:
    model = _model(conditioning=PLAIN)
    sampler = Sampler(model.process, "ddpm", (0,), single_index=True, clip=1.0)
    path = tmp_path / "sampler.pt2"
    compiled = compile_sampler(model, sampler, "aoti", warm=True, path=path)
    inputs = _inputs(sampler, True)
    expected = compile_sampler(model, sampler, "eager", warm=True)(*inputs)
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
    model = _model()
    sampler = _sampler(model, "rti")
    path = tmp_path / "sampler.onnx"
    compiled = compile_sampler(model, sampler, "onnx", warm=True, path=path)
    loaded = load_sampler(path)
    inputs = _inputs(sampler, True)
    assert torch.equal(loaded(*inputs), compiled(*inputs))
    assert loaded.shapes == {"states": (1, 2, 5), "noise": (sampler.draws, 1, 8, 2), "start": (1, 8, 2)}
    with pytest.raises(PolicyError, match="compiled for inputs"):
        loaded(*inputs[:2])
    with pytest.raises(PolicyError, match="compiled for inputs"):
        loaded(*_inputs(sampler, True, batch=2))


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
        compile_sampler(model, _sampler(model, "ddim"), runtime, path=path)


def test_pictures_are_not_compiled() -> None:
    config = DiffusionConfig(2, 8, 4, cameras=["front"], network=NETWORKS["mlp"])
    model = ChunkModel(config, 5, 2, Layout(), torch.Generator().manual_seed(0))
    with pytest.raises(PolicyError, match=r"states and noise only.*front"):
        compile_sampler(model, _sampler(model, "ddim"), "eager")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = _model()
    with pytest.raises(PolicyError, match=r"diffpolicy\[export\]"):
        compile_sampler(model, _sampler(model, "ddim"), "onnx")


def test_mish_with_one_exponential_is_mish() -> None:
    x = torch.linspace(-30, 60, 2001)
    torch.testing.assert_close(runtime_backends._mish(x), torch.nn.functional.mish(x), atol=1e-6, rtol=1e-6)
