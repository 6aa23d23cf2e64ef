"""What every bench needs: a stopwatch, the machine's own rate, and the result."""

import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Measurement(NamedTuple):
    """One figure and the reference measured beside it; `notes` are further figures for the result line."""

    value: float
    unit: str
    reference: float
    reference_name: str
    notes: dict[str, Any]


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def gemm_rate(device: torch.device, repeats: int = 20) -> float:
    """Return the best fp32 rate of a 1024^3 matrix product, in GFLOP/s."""
    a, b = torch.randn(2, 1024, 1024, device=device)
    return 2 * 1024**3 / min(timed(lambda: a @ b, device) for _ in range(repeats)) / 1e9


def peak_memory_gb() -> float:
    """Return the peak resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
