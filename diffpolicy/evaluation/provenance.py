"""Where a result comes from: code, versions, and the machine in words, without its name or paths."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "diffpolicy",
    "torch",
    "numpy",
    "scipy",
    "gymnasium",
    "mujoco",
    "pybullet",
    "dsrl",
    "safety-gymnasium",
    "bullet-safety-gym",
)


def code() -> dict[str, Any]:
    """SHA-256 of the installed sources and, from a git checkout, the commit and whether it had changes."""
    package = Path(__file__).resolve().parents[1]
    commit = _git(package.parent, "rev-parse", "HEAD") if (package.parent / ".git").exists() else None
    changed = _git(package.parent, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "sha256": sources_hash((package, package.parent / "envs")),
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
    }


def sources_hash(packages: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of all Python files of these packages, in a fixed order."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            contents = path.read_bytes()
            digest.update(
                f"{package.name}/{path.relative_to(package).as_posix()}\0{len(contents)}\0".encode()
            )
            digest.update(contents)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine in words: processor, cores that may be used, accelerator, system; never a host name."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": _cpu_name(),
        "cores": usable,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def portable_command(arguments: Sequence[str]) -> str:
    """A command line with every absolute path cut to its last part: other machines have other folders."""
    return " ".join(_portable(argument) for argument in arguments)


def _portable(argument: str) -> str:
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if value.startswith(("/", "~")) else argument


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
