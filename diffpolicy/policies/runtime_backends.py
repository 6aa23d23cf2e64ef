"""How an exported graph becomes something that runs: TorchInductor, AOTInductor and ONNX Runtime."""

import contextlib
import importlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from diffpolicy.policies.errors import PolicyError

Run = Callable[..., Tensor]
Shapes = dict[str, tuple[int, ...]]
INPUTS = ("states", "noise", "guess")


def compile_inductor(program: ExportedProgram, inputs: tuple[Tensor, ...], threads: int) -> Run:
    """Return the graph compiled for this process by TorchInductor, weights frozen into it.

    What is compiled is the exported graph, not the loop's own code, so that any number of samplers can be: a module's
    code may be compiled for a few instances only.
    """
    options: dict[str, Any] = {"freezing": True, "cpp.threads": threads}
    run: Run = torch.compile(program.module(), fullgraph=True, dynamic=False, options=options)
    run(*inputs)  # it compiles at the first call
    return run


def compile_aoti(program: ExportedProgram, inputs: tuple[Tensor, ...], path: Path, threads: int) -> None:
    """Write the graph to `path` as a package of machine code and weights (AOTInductor)."""
    shapes = {name: list(x.shape) for name, x in zip(INPUTS, inputs, strict=False)}
    options = {
        "freezing": True,
        "cpp.threads": threads,
        "aot_inductor.metadata": {"shapes": json.dumps(shapes)},
    }
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load_aoti(path: Path) -> tuple[Run, Shapes]:
    """Return the graph of a package, and the shapes of its inputs."""
    try:
        package = torch._inductor.aoti_load_package(str(path))
        stored = json.loads(package.get_metadata()["shapes"])
    except (RuntimeError, KeyError) as error:
        raise PolicyError(f"{path} is not a sampler compiled for this machine: {error}") from error
    return package, {name: tuple(shape) for name, shape in stored.items()}


def export_onnx(
    program: ExportedProgram, path: Path, inputs: Sequence[str] = INPUTS, outputs: Sequence[str] | None = None
) -> None:
    """Write the graph to `path` as an ONNX model, its weights inside, its first `inputs` and `outputs` so named."""
    for needed in ("onnx", "onnxscript"):
        _imported(needed)
    # ONNX Runtime has no kernel for Mish and would neither fold it away where it is constant nor run it fast.
    program = program.run_decompositions({torch.ops.aten.mish.default: _mish})
    names = inputs[: len(program.graph_signature.user_inputs)]
    with _quiet("torch.onnx"), _quiet("onnx_ir"), _quiet("onnxscript"):
        torch.onnx.export(
            program,
            f=str(path),
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
            input_names=names,
            output_names=outputs,
        )


def load_onnx(path: Path, threads: int) -> tuple[Run, Shapes]:
    """Return the graph of an ONNX model in ONNX Runtime on `threads` threads, and the shapes of its inputs."""
    onnxruntime = _imported("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package's own exceptions have no common base
        raise PolicyError(f"{path} is not an ONNX model that can be run: {error}") from error
    shapes = {each.name: tuple(each.shape) for each in session.get_inputs()}

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: x.detach().contiguous().numpy() for name, x in zip(shapes, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run, shapes


def _mish(x: Tensor) -> Tensor:
    """Return `x tanh(log(1 + e^x))` with one exponential: tanh(log u) is (u^2 - 1)/(u^2 + 1)."""
    grown = x.clamp(max=20.0).exp()  # beyond, mish is x to float32
    excess = grown * (grown + 2.0)
    return x * (excess / (excess + 2.0))


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PolicyError(
            f"the runtime 'onnx' needs the package {name}: pip install 'diffpolicy[export]'"
        ) from error


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence the notes of a logger and those below it: they are about packages that we do not use."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
