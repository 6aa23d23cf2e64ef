"""`diffpolicy replay LOG`: what a robot's black box recorded before it stopped, told, drawn and judged again."""

import argparse
from pathlib import Path

import numpy as np

from diffpolicy.deploy.replay import load_recording, plot, rerun, summary


def main(arguments: list[str]) -> int:
    """Print what happened and write the plot; 1 if the shield would now send other commands than it did."""
    parser = argparse.ArgumentParser(prog="diffpolicy replay", description=__doc__)
    parser.add_argument("log", type=Path, help="a record: trip-001.json, with trip-001.npz beside it")
    parser.add_argument("--plot", type=Path, help="the PNG to write; default: beside the record")
    options = parser.parse_args(arguments)
    recording = load_recording(options.log)
    print(summary(recording))
    picture = options.plot or recording.path.with_suffix(".png")
    plot(recording, picture)
    commands = recording.arrays["command"]
    differing = np.abs(rerun(recording) - commands).max(axis=1) > 1e-9 * (1.0 + np.abs(commands).max())
    same = not differing.any()
    verdict = "the same commands" if same else f"other commands in {int(differing.sum())} periods"
    print(f"\nplot: {picture}\nreplayed through the shield: {verdict}, {len(commands)} periods")
    return 0 if same else 1
