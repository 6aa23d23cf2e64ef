"""`diffpolicy export`: a folder that plays, or a sentence that says why there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffpolicy import training
from diffpolicy.data import Standardizer
from diffpolicy.deploy import exporting
from diffpolicy.deploy.exported import ExportedPolicy
from diffpolicy.policies.gaussian import GaussianConfig, GaussianNetwork, gaussian_manifest

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run that trained a Gaussian policy for Push-T, whose readings ship with the project."""
    config = GaussianConfig([8], 0.1)
    standardizer = Standardizer(torch.full((5,), 200.0), torch.full((5,), 90.0))
    network = GaussianNetwork(standardizer, 2, config.hidden, torch.Generator().manual_seed(0))
    manifest = gaussian_manifest(network, config, 0, task="PushT-v0", data={"sha256": "d"})
    training.write_checkpoint(
        tmp_path / "trained", 1, model=network.state_dict(), state={}, config={}, manifest=manifest
    )
    return f"checkpoint={tmp_path / 'trained'}"


def test_a_run_becomes_a_folder_that_plays(command: Command, run: str, tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text("velocity: 100\naction_names: [x, y]\n")
    status, out, error = command(
        *("export", run, "arm=mean", "to=policy", "safety=limits.yaml", "samples=5", "decisions=5")
    )
    assert (status, error) == (0, "")
    assert "| cold | real | actions | 5 |" in out
    assert "| onnx | 5 |" in out
    plays = ExportedPolicy(tmp_path / "policy")
    assert plays.manifest.safety.velocity == (100.0, 100.0)
    assert plays.manifest.action.names == ("x", "y")
    chunk, _ = plays.act({"state": np.full(5, 200.0)}, plays.start(0))
    assert chunk.actions.shape == (1, 2)


def test_a_mismatch_fails(
    command: Command, run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = exporting.load

    def off(path: Path, graph: Any, threads: int) -> Any:
        compiled = found(path, graph, threads)
        return lambda feed: {name: value * np.float32(1.01) for name, value in compiled(feed).items()}

    monkeypatch.setattr(exporting, "load", off)
    status, out, error = command("export", run, "samples=2", "decisions=0", "run=job")
    assert status == 1
    assert "**NOT within**" in out
    assert "actions of the graph 'cold' differs from PyTorch" in error
    assert (tmp_path / "job" / "policy" / "parity.json").exists()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ((), 2, "checkpoint=FOLDER"),
        (("format=tensorrt",), 2, "onnx, pt2"),
        (("samples=0",), 2, "samples=0"),
        (("arm=rti_1_0",), 1, "mean, sampled"),
        (("safety=limits.yaml",), 1, "limits.yaml"),
        (("data=nowhere.npz",), 2, "nowhere.npz"),
    ],
)
def test_what_cannot_be_exported_is_said(
    command: Command, run: str, words: tuple[str, ...], status: int, sentence: str
) -> None:
    found, _, error = command("export", *([run] if words else []), *words)
    assert found == status
    assert sentence in error
