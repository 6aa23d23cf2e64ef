"""Compiled forms of a whole sampling loop: one graph from states and noise to a chunk of actions."""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.inference import ChunkDenoiser, Inference
from diffpolicy.policies.policy import Observation
from diffpolicy.policies.runtime_backends import (
    INPUTS,
    Run,
    compile_aoti,
    compile_inductor,
    export_onnx,
    load_aoti,
    load_onnx,
)

Runtime = Literal["eager", "inductor", "aoti", "onnx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
TOLERANCE = 1e-4  # largest difference from the uncompiled loop, in normalised action units
SUFFIXES: Mapping[str, str] = {"aoti": ".pt2", "onnx": ".onnx"}


class ParityError(PolicyError):
    """A compiled loop that does not compute what the model computes."""


class _Graph(nn.Module):
    """An inference as a module: its model's weights are those of the graph."""

    def __init__(self, inference: Inference) -> None:
        super().__init__()
        self.model, self.inference = inference.model, inference

    def forward(self, states: Tensor, noise: Tensor, guess: Tensor | None = None) -> Tensor:
        """Return chunks (B, Tp, A) in normalised units."""
        return self.inference(Observation(states), noise, guess)


class CompiledSampler:
    """All steps of an inference for inputs of fixed shapes, whatever runs them.

    `shapes` names the inputs in order: "states" (B, To, O), "noise" (draws, B, Tp, A) and, of a warm start, "guess"
    (B, Tp, A). `threads` is the number of threads that a call may use.
    """

    def __init__(
        self, runtime: Runtime, run: Run, shapes: Mapping[str, tuple[int, ...]], threads: int
    ) -> None:
        self.runtime, self.shapes, self.threads = runtime, dict(shapes), threads
        self._run = run

    def __call__(self, states: Tensor, noise: Tensor, guess: Tensor | None = None) -> Tensor:
        """Return chunks (B, Tp, A) in normalised units; PolicyError for inputs of other shapes."""
        given = {"states": states, "noise": noise} | ({} if guess is None else {"guess": guess})
        found = {name: tuple(tensor.shape) for name, tensor in given.items()}
        if found != self.shapes:
            raise PolicyError(f"this sampler was compiled for inputs {self.shapes}, it got {found}")
        return self._run(*given.values())


def compile_inference(
    inference: Inference,
    runtime: Runtime,
    *,
    batch: int = 1,
    threads: int = 1,
    states: Tensor | None = None,
    path: Path | None = None,
) -> CompiledSampler:
    """Compile an inference for a fixed `batch`, check it against the inference itself, and return it.

    eager     the loop as it is
    inductor  torch.compile with frozen weights, for this process
    aoti      AOTInductor: a package at `path` (.pt2) that `load_sampler` runs elsewhere, without a compiler
    onnx      ONNX Runtime: a file at `path` (.onnx), likewise; needs the extra `export`

    The loop is unrolled, so that making takes about a second per evaluation for onnx and more for the other two, which
    call a C++ compiler; what the network computes of its noise levels alone is folded away by onnx. Without a `path`
    the file is temporary. `warm` loops begin at an iterate. All are compared on `states` (batch, To, O), or on
    standard normal ones, and fixed noise.

    Raises:
        PolicyError: if the model is not on the CPU or looks at pictures, a package is missing, or the path's suffix
            is not the runtime's.
        ParityError: if the largest difference exceeds 1e-4.
    """
    _check(inference.model, runtime, path)
    loop = _Graph(inference).eval()
    inputs = _inputs(inference, batch, states)
    reference: Run = _threaded(loop, threads)
    try:
        expected = reference(*inputs)
    except PolicyError as error:
        raise PolicyError(f"a compiled sampler is given states and noise only; {error}") from error
    shapes = {name: tuple(x.shape) for name, x in zip(INPUTS, inputs, strict=False)}
    if runtime == "eager":
        return CompiledSampler(runtime, reference, shapes, threads)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own making
        program = torch.export.export(loop, inputs)
        if runtime == "inductor":
            compiled = CompiledSampler(
                runtime, _threaded(compile_inductor(program, inputs, threads), threads), shapes, threads
            )
        elif path is None:
            with tempfile.TemporaryDirectory() as folder:
                compiled = _stored(program, inputs, Path(folder) / f"sampler{SUFFIXES[runtime]}", threads)
        else:
            compiled = _stored(program, inputs, path, threads)
    check_parity(compiled, inputs, expected)
    return compiled


def load_sampler(path: Path, *, threads: int = 1) -> CompiledSampler:
    """Return a sampler compiled to `path` by `compile_inference`; PolicyError if it is no such file.

    The package of AOTInductor is machine code: load only files whose origin you trust.
    """
    if not path.is_file():
        raise PolicyError(f"there is no compiled sampler at {path}")
    if path.suffix == SUFFIXES["onnx"]:
        run, shapes = load_onnx(path, threads)
        return CompiledSampler("onnx", run, shapes, threads)
    if path.suffix == SUFFIXES["aoti"]:
        run, shapes = load_aoti(path)
        return CompiledSampler("aoti", _threaded(run, threads), shapes, threads)
    raise PolicyError(f"a compiled sampler is a .pt2 or an .onnx file, not {path.name}")


def check_parity(compiled: Callable[..., Tensor], inputs: tuple[Tensor, ...], expected: Tensor) -> float:
    """Return the largest difference from `expected` (B, Tp, A); ParityError above 1e-4 or where it is NaN."""
    difference = (compiled(*inputs) - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise ParityError(
            f"the compiled sampler differs by up to {difference:.2g} from the model in normalised units, more than "
            f"{TOLERANCE:g}. Are the model's outputs finite? And a model that predicts noise magnifies rounding by "
            "noise/signal: begin at a level with some signal, or use runtime 'eager'"
        )
    return float(difference)


def _check(model: ChunkDenoiser, runtime: Runtime, path: Path | None) -> None:
    if runtime not in RUNTIMES:
        raise PolicyError(f"a runtime is one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if path is not None and path.suffix != SUFFIXES.get(runtime):
        suffix = SUFFIXES.get(runtime)
        what = f"a file ending in {suffix}" if suffix else "no file"
        raise PolicyError(f"the runtime {runtime!r} makes {what}, not {path.name}")
    assert isinstance(model, nn.Module)
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise PolicyError("compiled samplers run on the CPU: move the model there first")


def _inputs(inference: Inference, batch: int, states: Tensor | None) -> tuple[Tensor, ...]:
    """Return the inputs that an inference is traced with and compared on."""
    model = inference.model
    generator = torch.Generator().manual_seed(0)  # any fixed noise serves
    chunk = (batch, model.prediction_horizon, model.action_size)
    if states is None:
        states = torch.randn(batch, model.observation_horizon, model.observation_size, generator=generator)
    noise = torch.randn(inference.sampler.draws, *chunk, generator=generator)
    if inference.warm is None:
        return states, noise
    return states, noise, torch.randn(chunk, generator=generator)


def _stored(
    program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...], path: Path, threads: int
) -> CompiledSampler:
    """Write `program` in the form that the suffix of `path` names, and load it."""
    if path.suffix == SUFFIXES["onnx"]:
        export_onnx(program, path)
    else:
        compile_aoti(program, inputs, path, threads)
    return load_sampler(path, threads=threads)


def _threaded(run: Callable[..., Tensor], threads: int) -> Run:
    """Return `run` without gradients and with PyTorch's number of threads at `threads` while it lasts."""

    def limited(*inputs: Tensor) -> Tensor:
        before = torch.get_num_threads()
        try:
            if before != threads:
                torch.set_num_threads(threads)
            with (
                torch.inference_mode(False),
                torch.no_grad(),
            ):  # one mode, whatever the caller's: it is compiled in
                return run(*inputs)
        finally:
            if before != threads:
                torch.set_num_threads(before)

    return limited
