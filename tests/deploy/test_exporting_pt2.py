"""Packages of machine code compute what PyTorch computes, for every kind of policy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_policies import PLAIN, chunk_checkpoint, fisor_checkpoint, gaussian_checkpoint
from torch import Tensor, nn

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.exported import ExportedPolicy
from diffpolicy.deploy.exporting import export, load
from diffpolicy.deploy.graphs import Graph
from diffpolicy.deploy.parity import TOLERANCE, graph_inputs, random_readings
from diffpolicy.deploy.torch_runtime import TorchRuntime
from diffpolicy.policies.runtime_backends import compile_aoti


class Together(nn.Module):
    """Graphs side by side, so that the C++ compiler is called once for all of them."""

    def __init__(self, graphs: list[Graph]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(graph.module for graph in graphs)
        self.counts = [len(graph.inputs) for graph in graphs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        taken = iter(inputs)
        outputs = [
            part(*(next(taken) for _ in range(n))) for part, n in zip(self.parts, self.counts, strict=True)
        ]
        return tuple(tensor for each in outputs for tensor in each)


def test_every_kind_of_policy_is_packaged(tmp_path: Path) -> None:
    levels, scaled = replace(PLAIN, per_step_levels=True), replace(PLAIN, discrete_scale=1.0)
    runtimes = [
        TorchRuntime(chunk_checkpoint(tmp_path / "mlp"), "rti_0@1"),
        TorchRuntime(chunk_checkpoint(tmp_path / "unet", "unet", PLAIN), "ddim_1"),
        TorchRuntime(chunk_checkpoint(tmp_path / "transformer", "transformer", PLAIN), "ddim_1"),
        TorchRuntime(chunk_checkpoint(tmp_path / "discrete", "mlp", scaled, discrete=(1,)), "warm_10@2"),
        TorchRuntime(chunk_checkpoint(tmp_path / "streaming", "mlp", levels), "streaming_1@4"),
        TorchRuntime(fisor_checkpoint(tmp_path / "fisor"), "fisor_4"),
        TorchRuntime(gaussian_checkpoint(tmp_path / "gaussian"), "sampled"),
    ]
    graphs, feeds = [], []
    for runtime in runtimes:
        graph = runtime.graphs.graphs.get("warm", runtime.graphs.graphs["cold"])
        readings = random_readings(runtime.policy, 3, seed=0)
        plans = np.random.default_rng(0).uniform(-1, 1, (3, 8, 2)).astype(np.float32)
        graphs.append(graph)
        feeds.append(graph_inputs(graph, readings, plans, seed=0))
    inputs = [
        tuple(
            torch.from_numpy(feed[row][name])
            for graph, feed in zip(graphs, feeds, strict=True)
            for name in graph.inputs
        )
        for row in range(3)
    ]
    together = Together(graphs).eval()
    names = [f"{index}.{name}" for index, graph in enumerate(graphs) for name in graph.inputs]
    outputs = [f"{index}.{name}" for index, graph in enumerate(graphs) for name in graph.outputs]
    with torch.no_grad():
        compile_aoti(torch.export.export(together, inputs[0]), inputs[0], tmp_path / "all.pt2", 1)
    run = load(tmp_path / "all.pt2", {"inputs": names, "outputs": outputs}, 1)
    for given in inputs:
        found = run({name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})
        with torch.no_grad():
            wanted = dict(zip(outputs, together(*given), strict=True))
        for name, tensor in wanted.items():
            pixels = name.endswith("actions") and float(tensor.abs().max()) > 2.0
            np.testing.assert_allclose(
                found[name], tensor, atol=TOLERANCE * (256.0 if pixels else 1.0), rtol=0
            )


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
