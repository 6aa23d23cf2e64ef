"""`diffpolicy serve`: answers the observations of robots with action chunks, within deadlines."""

import gc
import sys
from pathlib import Path

from omegaconf import DictConfig

from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.deploy.chunks import Runtime
from diffpolicy.deploy.feasibility import FeasibleRuntime
from diffpolicy.deploy.server import ServerConfig, serve_forever

SWITCH = (
    0.0005  # [s] after which a thread that computes in Python lets the other one run; the default is 5 ms
)
OF_A_CHECKPOINT = ("arm", "seed", "safety")
NOT_THE_SERVER_S = (*OF_A_CHECKPOINT, "checkpoint", "export", "attempts", "device", "threads", "run")


def main(cfg: DictConfig) -> None:
    """Serve `cfg.checkpoint` or `cfg.export` until the process is told to stop."""
    options = {str(key): value for key, value in cfg.items() if key not in NOT_THE_SERVER_S}
    config = build(ServerConfig, options)
    if not isinstance(cfg.attempts, int) or cfg.attempts < 1:
        raise ConfigError(f"attempts={cfg.attempts} counts the first decision too: at least 1")
    runtime = FeasibleRuntime(load_runtime(cfg), attempts=cfg.attempts)
    manifest = runtime.manifest
    sys.setswitchinterval(SWITCH)

    def started(url: str) -> None:
        # What has been loaded stays: the collector need not look at it again while robots wait.
        gc.collect()
        gc.freeze()
        page = url.replace("ws", "http", 1)
        name = f"{manifest.policy}, {manifest.arm}, {manifest.task}"
        print(f"serving {name} at {url}\nstatus page {page}/", flush=True)

    serve_forever(runtime, config, started)
    print("stopped", flush=True)


def load_runtime(cfg: DictConfig) -> Runtime:
    """Return the policy that `cfg` names; an export needs no torch. ConfigError unless it names exactly one."""
    if (cfg.checkpoint is None) == (cfg.export is None):
        raise ConfigError("serve needs checkpoint=RUN or export=FOLDER, and not both")
    if cfg.export is not None:
        for key in OF_A_CHECKPOINT:
            if cfg[key] is not None:
                raise ConfigError(f"{key}={cfg[key]} goes with checkpoint=RUN: an export has its own")
        from diffpolicy.deploy.exported import ExportedPolicy

        return ExportedPolicy(Path(cfg.export), cfg.threads or 1)
    from diffpolicy.cli.common import compute_device
    from diffpolicy.deploy.torch_runtime import TorchRuntime

    compute_device(cfg)
    return TorchRuntime(Path(cfg.checkpoint), cfg.arm, seed=cfg.seed, limits=cfg.safety)
