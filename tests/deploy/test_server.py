"""The policy server: openpi's client works, and nobody else gets more than an error."""

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from toy_runtime import CHUNK, reading, serving


@pytest.fixture(scope="module")
def served():
    with serving() as running:
        yield running


def test_openpi_s_client_gets_actions(served):
    policy = WebsocketClientPolicy("127.0.0.1", served.port)
    metadata = policy.get_server_metadata()
    assert metadata["policy"] == "toy"
    first = policy.infer(reading(0.25))
    np.testing.assert_array_equal(first["actions"], np.tile(np.float32([1, 0.25]), (CHUNK, 1)))
    assert first["actions"].dtype == np.float32
    second = policy.infer(reading(0.75))
    assert second["actions"][0].tolist() == [2, 0.75]
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"] > 0
    with pytest.raises(RuntimeError, match="shape: 'state' has shape"):
        policy.infer({**reading(), "state": np.zeros(4, np.float32)})
