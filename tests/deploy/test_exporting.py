"""An export computes what the checkpoint computes, plays without torch, and is refused once it has been changed."""

import importlib.util
import json
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_policies import GUARDED, PLAIN, chunk_checkpoint, gaussian_checkpoint

from diffpolicy.deploy import exporting
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.exported import ExportedPolicy
from diffpolicy.deploy.exporting import Exported, ParityError, export
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.run_policy import COLD, SPEC, spec_hash
from diffpolicy.deploy.torch_runtime import TorchRuntime

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    """A warm start with a guard; its reply holds seven actions."""
    return TorchRuntime(chunk_checkpoint(tmp_path_factory.mktemp("chunks")), GUARDED, git="c0ffee")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    """A policy that is compiled in a second."""
    return TorchRuntime(gaussian_checkpoint(tmp_path_factory.mktemp("gaussian")), "mean")


@pytest.fixture(scope="module")
def exported(runtime: TorchRuntime, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    real = {"state": np.random.default_rng(1).uniform(100, 400, (6, 2, 5)).astype(np.float32)}
    folder = tmp_path_factory.mktemp("export") / "policy"
    return export(runtime, folder, real=real, samples=6, decisions=3, machine="a toaster")


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


def drive(decisions: int = 8) -> list[np.ndarray[Any, Any]]:
    steps = np.random.default_rng(0).standard_normal((decisions, 5)) * np.array([1.0, 1.0, 1.0, 1.0, 0.05])
    steps[5, 3] += 90.0  # a leap, which the guard sees
    return list((200.0 + np.cumsum(steps, axis=0)).astype(np.float32))


def test_pictures_go_into_the_graph(tmp_path: Path) -> None:
    seeing = TorchRuntime(chunk_checkpoint(tmp_path / "run", conditioning=PLAIN, camera=True), "ddim_1")
    export(seeing, tmp_path / "to", samples=3, decisions=0).check()
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    observation = {"state": np.full(5, 200.0), "camera": picture}
    plays = ExportedPolicy(tmp_path / "to")
    chunk, _ = plays.act(observation, plays.start(0))
    wanted, _ = seeing.act(observation, seeing.start(0))
    np.testing.assert_allclose(chunk.actions, wanted.actions, atol=1e-4 * 256)


def test_a_folder_decides_as_the_checkpoint_does(runtime: TorchRuntime, exported: Exported) -> None:
    exported.check()
    plays = ExportedPolicy(exported.folder)
    memory, theirs, flags = plays.start(5), runtime.start(5), set()
    for reading in drive():
        chunk, memory = plays.act({"state": reading}, memory)
        wanted, theirs = runtime.act({"state": reading}, theirs)
        assert chunk.flags == wanted.flags
        np.testing.assert_allclose(chunk.actions, wanted.actions, atol=1e-4 * 256)
        flags.add(chunk.flags)
    assert {(), ("cold",), ("jump", "cold")} <= flags


def test_what_a_folder_holds(exported: Exported) -> None:
    names = {path.name for path in exported.folder.iterdir()}
    files = {"cold.onnx", "warm.onnx", "manifest.json", "policy.json", "golden.npz", "run_policy.py"}
    assert names == files | {"parity.json", "parity.md"}
    report = json.loads((exported.folder / "parity.json").read_text())
    assert report["passed"] is True
    assert {(row["graph"], row["inputs"], row["output"]) for row in report["parity"]} == {
        (graph, inputs, output)
        for graph in ("cold", "warm")
        for inputs in ("random", "real")
        for output in ("actions", "plan")
    }
    assert [row["runtime"] for row in report["latency_ms"]] == ["onnx", "torch"]
    assert "a toaster" in (exported.folder / "parity.md").read_text()


def test_the_manifest_is_in_the_file_too(runtime: TorchRuntime, exported: Exported) -> None:
    import onnx

    manifest = Manifest.from_json((exported.folder / "manifest.json").read_text())
    assert manifest == runtime.manifest
    assert (manifest.git, manifest.data_sha256, len(manifest.weights_sha256)) == ("c0ffee", "d" * 64, 64)
    stored = {
        entry.key: entry.value for entry in onnx.load(str(exported.folder / "warm.onnx")).metadata_props
    }
    assert set(stored) == set(manifest.as_dict())
    assert stored["arm"] == GUARDED
    assert json.loads(stored["safety"]) == manifest.as_dict()["safety"]


def test_it_plays_without_torch_and_without_this_package(
    runtime: TorchRuntime, exported: Exported, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    packages = next((tmp_path / "bare" / "lib").glob("python*/site-packages"))
    for name in ("numpy", "onnxruntime"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin).parent
        for part in (origin, origin.with_name(f"{name}.libs")):
            if part.exists():
                (packages / part.name).symlink_to(part)
    script = (
        "import sys, importlib.util as u, numpy as np\n"
        "assert not any(u.find_spec(name) for name in ('torch', 'diffpolicy', 'onnx', 'envs'))\n"
        "from run_policy import Player\n"
        "player = Player.open(sys.argv[1]); memory = player.start(5); found = []\n"
        "for reading in np.load(sys.argv[2]):\n"
        "    actions, memory, feasible, flags = player.act({'state': reading}, memory); found.append(actions)\n"
        "np.save(sys.argv[3], np.stack(found))\n"
    )
    np.save(tmp_path / "readings.npy", np.stack(drive()))
    files = [str(exported.folder), str(tmp_path / "readings.npy"), str(tmp_path / "actions.npy")]
    run = subprocess.run([python, "-c", script, *files], cwd=exported.folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs = runtime.start(5)
    for reading, actions in zip(drive(), np.load(tmp_path / "actions.npy"), strict=True):
        wanted, theirs = runtime.act({"state": reading}, theirs)
        np.testing.assert_allclose(actions, wanted.actions, atol=1e-4 * 256)
    checked = subprocess.run([python, "run_policy.py"], cwd=exported.folder, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "golden vectors met" in checked.stdout


@pytest.mark.parametrize("name", ["warm.onnx", "manifest.json", "golden.npz", "run_policy.py"])
def test_a_changed_file_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DeployError, match=f"{name} is not the file that was exported"):
        ExportedPolicy(copy)
    (copy / name).unlink()
    with pytest.raises(DeployError, match=f"{name} is missing"):
        ExportedPolicy(copy)


def test_a_changed_specification_is_refused(copy: Path) -> None:
    stored = json.loads((copy / SPEC).read_text())
    (copy / SPEC).write_text(json.dumps(stored | {"execute": 3}))
    with pytest.raises(DeployError, match="has been changed"):
        ExportedPolicy(copy)
    outside = stored | {"sha256": {"../other": "0", SPEC: ""}}
    outside["sha256"][SPEC] = spec_hash(outside)
    (copy / SPEC).write_text(json.dumps(outside))
    with pytest.raises(DeployError, match="is missing"):
        ExportedPolicy(copy)
    for text in ("{}", "[", "[]", '{"sha256": 3}', '{"sha256": [], "graphs": {}}', "[" * 10**5):
        (copy / SPEC).write_text(text)
        with pytest.raises(DeployError, match="no exported policy"):
            ExportedPolicy(copy)


def test_what_cannot_be_decided_from_is_refused(exported: Exported) -> None:
    plays = ExportedPolicy(exported.folder)
    for state, words in (([0, 1, np.nan, 3, 4], "block_x"), (np.zeros(6), "shape")):
        with pytest.raises(DeployError, match=words):
            plays.act({"state": np.asarray(state)}, plays.start(0))


def test_a_graph_that_computes_something_else_is_told(
    small: TorchRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = exporting.load

    def off(path: Path, graph: Any, threads: int) -> Any:
        run = found(path, graph, threads)
        return lambda feed: {name: value + np.float32(0.05) for name, value in run(feed).items()}

    monkeypatch.setattr(exporting, "load", off)
    written = export(small, tmp_path / "off", samples=2, decisions=0)
    with pytest.raises(ParityError, match=r"differs from PyTorch by 0\.05"):
        written.check()
    assert json.loads((written.folder / "parity.json").read_text())["passed"] is False


def test_a_graph_that_computes_nan_is_told(
    small: TorchRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = exporting.load

    def broken(path: Path, graph: Any, threads: int) -> Any:
        run = found(path, graph, threads)
        return lambda feed: {name: value * np.float32(np.nan) for name, value in run(feed).items()}

    monkeypatch.setattr(exporting, "load", broken)
    written = export(small, tmp_path / "nan", samples=2, decisions=3)
    with pytest.raises(ParityError, match=r"holds NaN or infinity \(4 numbers"):
        written.check()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    report, _ = (
        json.loads((written.folder / name).read_text(), parse_constant=refuse)
        for name in ("parity.json", SPEC)
    )
    assert (report["passed"], report["latency_ms"]) == (False, [])
    assert "**NOT within**" in (written.folder / "parity.md").read_text()


def test_only_exports_are_replaced(
    runtime: TorchRuntime, small: TorchRuntime, copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(DeployError, match="is no export"):
        export(runtime, tmp_path / "full")
    (copy / "notes.txt").touch()  # beside an export
    with pytest.raises(DeployError, match=r"holds notes\.txt"):
        export(runtime, copy)
    (copy / "notes.txt").unlink()
    with pytest.raises(DeployError, match="is a file"):
        export(runtime, copy / "manifest.json")
    with pytest.raises(DeployError, match="onnx, pt2"):
        export(runtime, copy, "tensorrt")  # type: ignore[arg-type]
    (tmp_path / "link").symlink_to(copy)
    export(small, tmp_path / "link", samples=2, decisions=0)
    assert (tmp_path / "link").is_symlink()
    assert not (copy / "warm.onnx").exists()
    assert ExportedPolicy(copy).manifest.arm == "mean"
    assert list(ExportedPolicy(copy).player.graphs) == [COLD]


def test_a_failed_export_leaves_what_was_there(
    runtime: TorchRuntime, small: TorchRuntime, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(exporting, "written_report", fails)
    with pytest.raises(OSError, match="disk full"):
        export(small, copy, samples=1, decisions=0)
    assert ExportedPolicy(copy).manifest == runtime.manifest
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_the_player_in_the_folder_is_the_one_that_is_tested(exported: Exported) -> None:
    from diffpolicy.deploy import run_policy

    assert (exported.folder / "run_policy.py").read_bytes() == Path(run_policy.__file__).read_bytes()
