"""ONNX computes what PyTorch computes for every kind of policy, AOTInductor for two.

Trained networks of every kind go through both, with latencies, in the suite `deploy`: compiling them takes minutes.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_policies import PLAIN, chunk_checkpoint, fisor_checkpoint, gaussian_checkpoint, picture_checkpoint
from torch import Tensor, nn

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.exported import ExportedPolicy
from diffpolicy.deploy.exporting import Format, compile_graph, export, load
from diffpolicy.deploy.graphs import Graph
from diffpolicy.deploy.parity import TOLERANCE, graph_inputs, random_readings
from diffpolicy.deploy.run_policy import COLD, WARM
from diffpolicy.deploy.torch_runtime import TorchRuntime


class Together(nn.Module):
    """Graphs side by side, so that a compiler is called once for all of them."""

    def __init__(self, graphs: list[Graph]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(graph.module for graph in graphs)
        self.counts = [len(graph.inputs) for graph in graphs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        taken = iter(inputs)
        outputs = [
            part(*(next(taken) for _ in range(count)))
            for part, count in zip(self.parts, self.counts, strict=True)
        ]
        return tuple(tensor for each in outputs for tensor in each)


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> list[TorchRuntime]:
    folder = tmp_path_factory.mktemp("kinds")
    levels, scaled = replace(PLAIN, per_step_levels=True), replace(PLAIN, discrete_scale=1.0)
    return [
        TorchRuntime(chunk_checkpoint(folder / "mlp"), "rti_0@1"),
        TorchRuntime(chunk_checkpoint(folder / "soft"), "soft_3@1"),
        TorchRuntime(chunk_checkpoint(folder / "unet", "unet", PLAIN), "ddim_1"),
        TorchRuntime(chunk_checkpoint(folder / "transformer", "transformer", PLAIN), "ddim_1"),
        TorchRuntime(chunk_checkpoint(folder / "discrete", "mlp", scaled, discrete=(1,)), "warm_10@2"),
        TorchRuntime(chunk_checkpoint(folder / "streaming", "mlp", levels), "streaming_1@4"),
        TorchRuntime(fisor_checkpoint(folder / "fisor"), "fisor_4"),
        TorchRuntime(fisor_checkpoint(folder / "feasible"), "best_feasible_4"),
        TorchRuntime(gaussian_checkpoint(folder / "gaussian"), "sampled"),
        TorchRuntime(picture_checkpoint(folder / "pictures"), "sampled"),
    ]


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_every_kind_of_policy_is_compiled(
    format: Format, runtimes: list[TorchRuntime], tmp_path: Path
) -> None:
    if format == "onnx":
        for needed in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(needed)
    else:  # a C++ compiler is slow: a chunk model that begins at its last plan, and critics that rank candidates
        runtimes = [runtime for runtime in runtimes if runtime.manifest.arm in ("rti_0@1", "best_feasible_4")]
        assert len(runtimes) == 2
    graphs = [runtime.graphs.graphs.get(WARM, runtime.graphs.graphs[COLD]) for runtime in runtimes]
    plans = np.random.default_rng(0).uniform(-1, 1, (3, 8, 2)).astype(np.float32)
    given = [
        graph_inputs(graph, random_readings(runtime.policy, 3, seed=0), plans, seed=0)
        for runtime, graph in zip(runtimes, graphs, strict=True)
    ]
    feeds = [
        {f"{i}.{key}": x for i, calls in enumerate(given) for key, x in calls[row].items()}
        for row in range(3)
    ]
    whole = Graph(
        Together(graphs),
        tuple(f"{i}.{name}" for i, graph in enumerate(graphs) for name in graph.inputs),
        tuple(f"{i}.{name}" for i, graph in enumerate(graphs) for name in graph.outputs),
        (),
    )
    path = tmp_path / f"all.{format}"
    compile_graph(whole, feeds[0], path, format, 1)
    run = load(path, {"inputs": whole.inputs, "outputs": whole.outputs}, 1)
    for feed in feeds:
        found = run(feed)
        for name, wanted in whole.run(feed).items():
            action = runtimes[int(name.split(".")[0])].manifest.action
            assert action.high is not None
            unit = action.high[0] / 2.0 if name.endswith("actions") else 1.0
            np.testing.assert_allclose(found[name], wanted, atol=TOLERANCE * unit, rtol=0, err_msg=name)


def test_a_folder_with_packages_decides_as_the_checkpoint_does(tmp_path: Path) -> None:
    runtime = TorchRuntime(gaussian_checkpoint(tmp_path / "gaussian"), "sampled")
    export(runtime, tmp_path / "to", "pt2", samples=4, decisions=2).check()
    plays, state = ExportedPolicy(tmp_path / "to"), np.linspace(-1.0, 3.0, 11)
    memory, theirs = plays.start(4), runtime.start(4)
    for _ in range(3):
        chunk, memory = plays.act({"state": state}, memory)
        wanted, theirs = runtime.act({"state": state}, theirs)
        np.testing.assert_allclose(chunk.actions, wanted.actions, atol=TOLERANCE)
    package = tmp_path / "to" / "cold.pt2"
    package.write_bytes(package.read_bytes() + b" ")
    with pytest.raises(
        DeployError, match="not the file that was exported"
    ):  # before it is loaded: it is machine code
        ExportedPolicy(tmp_path / "to")


def test_a_policy_that_sees_pictures_alone_is_shown_nothing_else(tmp_path: Path) -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    runtime = TorchRuntime(picture_checkpoint(tmp_path / "pictures"), "mean")
    assert [(signal.name, signal.shape) for signal in runtime.manifest.observation] == [("top", (8, 8, 3))]
    export(runtime, tmp_path / "to", samples=4, decisions=2).check()
    plays = ExportedPolicy(tmp_path / "to")
    shown = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    decided = [plays.act({"top": picture}, plays.start(0))[0].actions for picture in shown]
    wanted, _ = runtime.act({"top": shown[1]}, runtime.start(0))
    np.testing.assert_allclose(decided[1], wanted.actions, atol=TOLERANCE)
    assert not np.array_equal(*decided)
    with pytest.raises(DeployError, match="no 'top'"):
        plays.act({"state": np.zeros(11)}, plays.start(0))
    checked = subprocess.run([sys.executable, "run_policy.py"], cwd=tmp_path / "to", capture_output=True)
    assert checked.returncode == 0, checked.stderr
