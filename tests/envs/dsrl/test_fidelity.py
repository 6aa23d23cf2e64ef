"""The physics against returns and costs measured with mujoco 3.3.0: seed 0, 200 random actions.

The original pins (mujoco 2.3.3) give the same numbers to within the tolerance, except in the chaotic rows,
whose contacts amplify rounding: mujoco 2.3.3, 3.3.0 and 4.0.0 differ there by up to the allowance stated.
"""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import envs

# task, return, cost, allowed difference of the return, of the cost
REFERENCE = [
    ("PointCircle1", -0.9731, 0, 0.005, 0),
    ("PointGoal1", -0.7060, 0, 0.005, 0),
    ("PointGoal2", -0.6962, 1, 0.005, 0),
    ("PointButton1", 0.4473, 0, 0.005, 0),
    ("CarCircle1", 0.1016, 0, 0.005, 0),
    ("CarCircle2", 0.2399, 47, 0.005, 0),
    ("CarGoal1", -0.0466, 0, 0.005, 0),
    ("CarGoal2", -0.0100, 0, 0.07, 0),  # chaotic
    ("CarButton1", -0.0973, 0, 0.03, 0),  # chaotic
    ("CarPush1", -0.3155, 0, 0.005, 0),
    ("CarPush2", 0.5907, 0, 0.005, 0),
    ("AntVelocity", -28.256, 5, 5.5, 4),  # chaotic
    ("HalfCheetahVelocity", -57.216, 0, 6.5, 0),  # chaotic
    ("HopperVelocity", 215.906, 15, 0.01, 0),
    ("SwimmerVelocity", 24.280, 90, 0.01, 0),
    ("Walker2dVelocity", 51.184, 0, 0.01, 0),
]


@pytest.mark.parametrize(
    ("name", "expected_return", "expected_cost", "return_slack", "cost_slack"), REFERENCE
)
def test_returns_and_costs_of_fixed_actions(
    name: str,
    expected_return: float,
    expected_cost: int,
    return_slack: float,
    cost_slack: int,
    safety_gymnasium: None,
) -> None:
    env = envs.make(name)
    env.reset(seed=0)
    simulator: Any = env.unwrapped
    # The measurements drew their actions from the simulator's own space, which is float64 for navigation.
    actions = spaces.Box(-1.0, 1.0, env.action_space.shape, simulator.raw.action_space.dtype, seed=0)
    total, cost = 0.0, 0.0
    for _ in range(200):
        _, reward, terminated, truncated, info = env.step(actions.sample())
        total += float(reward)
        cost += info["cost"]
        if terminated or truncated:
            env.reset()
    assert total == pytest.approx(expected_return, abs=return_slack)
    assert cost == pytest.approx(expected_cost, abs=cost_slack)
    env.close()


@pytest.mark.parametrize(
    ("name", "push", "boundary"), [("BallCircle", (1.0, 0.0), 6.0), ("BallRun", (0.0, 1.0), 2.0)]
)
def test_bullet_costs_begin_at_the_boundary(
    name: str, push: tuple[float, float], boundary: float, bullet: None
) -> None:
    env = envs.make(name)
    env.reset(seed=0)
    agent = env.unwrapped.raw.agent  # type: ignore[attr-defined]
    axis = int(np.argmax(push))
    crossed = False
    for _ in range(60):
        *_, info = env.step(np.array(push, np.float32))
        outside = abs(agent.get_position()[axis]) > boundary
        too_fast = name == "BallRun" and agent.velocity_violation
        assert info["cost"] == float(outside or too_fast)
        crossed |= outside
    assert crossed
    env.close()
