"""`diffpolicy serve` as a user types it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect

from diffpolicy.deploy import wire

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
TOKEN = "correct-horse-battery"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "checkpoint=RUN or export=FOLDER"),
        (["checkpoint=a", "export=b"], "not both"),
        (["export=b", "arm=ddim_3"], "arm=ddim_3 goes with checkpoint=RUN"),
        (["export=b", "safety=limits.yaml"], "safety=limits.yaml goes with"),
        (["checkpoint=nowhere"], "nowhere"),
        (["export=nowhere"], "nowhere"),
        (["checkpoint=a", "host=0.0.0.0"], "allow_remote=true"),
        (["checkpoint=a", "host=0.0.0.0", "allow_remote=true"], "DIFFPOLICY_TOKEN"),
        (["checkpoint=a", "token=short"], "at least 16"),
        (["checkpoint=a", "tls_cert=a"], "tls_key"),
        (["checkpoint=a", "port=99999"], "port is from 0"),
        (["checkpoint=a", "max_clients=0"], "max_clients is above 0"),
        (["checkpoint=a", "deadline=soon"], "deadline"),
        (["checkpoint=a", "attempts=0"], "attempts=0"),
        (["checkpoint=a", "deadlin=1"], "deadline"),
    ],
)
def test_what_cannot_be_meant_is_one_line(command, monkeypatch, words, says):
    monkeypatch.delenv("DIFFPOLICY_TOKEN", raising=False)
    status, out, errors = command("serve", *words)
    assert status in (1, 2)
    assert out == ""
    assert len(errors.strip().splitlines()) == 1
    assert says in errors


def test_a_checkpoint_is_served_until_sigterm(tmp_path):
    from small_policies import fisor_checkpoint

    run, folder = fisor_checkpoint(tmp_path / "policy"), tmp_path / "serve"
    command = [sys.executable, "-m", "diffpolicy", "serve", f"checkpoint={run}", "port=0", f"run={folder}"]
    environment = {**os.environ, "DIFFPOLICY_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "deadline=10"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        first, second = process.stdout.readline().split(), process.stdout.readline().split()
        url = first[-1]
        assert first[:2] == ["serving", "fisor,"]
        assert second[-1] == url.replace("ws", "http") + "/"
        with connect(url, additional_headers={"Authorization": f"Api-Key {TOKEN}"}, proxy=None) as client:
            manifest = wire.decode(client.recv())
            shape = manifest["observation"][0]["shape"]
            random = np.random.default_rng(0)
            flags = []
            for sequence in range(8):
                state = random.normal(size=shape).astype(np.float32)
                client.send(wire.encode({"state": state, "__seq": sequence, "__stamp": 0.1 * sequence}))
                reply = wire.decode(client.recv())
                assert reply["actions"].shape == (manifest["chunk"], manifest["action"]["shape"][0])
                assert (reply["feasible"] > 0) == ("backup" in reply["flags"])
                flags += reply["flags"]
            assert {"resampled", "backup"} & set(flags)  # untrained critics dislike some actions
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out.endswith("stopped\n")
        assert TOKEN not in out + errors
    finally:
        process.kill()
        process.communicate()
    for file in folder.rglob("*"):
        assert not file.is_file() or TOKEN not in file.read_text()
