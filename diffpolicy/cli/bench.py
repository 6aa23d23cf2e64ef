"""`diffpolicy bench NAME`: speed and memory of this machine, in minutes; ends with one line of JSON.

A ratio to a reference measured in the same run means the same on any machine; seconds alone do not. A bench is a
function in a module of diffpolicy/cli/benches, its options are in configs/bench/NAME.yaml.
"""

import json
from importlib import import_module
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from diffpolicy.cli.benches.measuring import Measurement
from diffpolicy.cli.common import compute_device
from diffpolicy.evaluation.provenance import machine

BENCHES = {
    "fisor-train": ("diffpolicy.cli.benches.fisor", "fisor_train"),
    "fisor-act": ("diffpolicy.cli.benches.fisor", "fisor_act"),
    "latency": ("diffpolicy.cli.benches.chunks", "latency"),
    "unet": ("diffpolicy.cli.benches.chunks", "unet"),
    "align": ("diffpolicy.cli.benches.align", "align"),
    "world-model": ("diffpolicy.cli.benches.world_model", "world_model"),
}


def main(cfg: DictConfig) -> None:
    """Run the bench `cfg.bench` and print its result."""
    device = compute_device(cfg)
    module, function = BENCHES[cfg.bench]
    result: Measurement = getattr(import_module(module), function)(cfg, device)
    notes = {
        note: round(figure, 4) if isinstance(figure, float) else figure
        for note, figure in result.notes.items()
    }
    console = Console(highlight=False, soft_wrap=True)
    for note, figure in notes.items():
        if not isinstance(figure, dict):
            console.print(f"{note}: {figure}")
    line = {
        "name": cfg.bench,
        "value": round(result.value, 4),
        "unit": result.unit,
        "reference": round(result.reference, 4),
        "reference_name": result.reference_name,
        "ratio": round(result.value / result.reference, 6),
        "machine": {**machine(), "threads": torch.get_num_threads(), "device": device.type},
        **notes,
    }
    if cfg.save is not None:
        Path(cfg.save).write_text(json.dumps(line, indent=1) + "\n")
    print(json.dumps(line))
