"""Names and constants of Meta-World's tasks, known without the simulator.

Source: Yu et al. 2019 ("Meta-World"), in version 3 (McLean et al. 2025, "Meta-World+").
"""

from dataclasses import replace

from envs.layout import Body, Layout
from envs.registry import Task

NAMES = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "hand-insert-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-close-v3",
    "window-open-v3",
)

# Hand (0, 1, 2), gripper opening 3, object (4, 5, 6) with quaternion, a second object; the same of the step before;
# goal. Actions move the hand by up to a centimetre, so that its position is no action.
LAYOUT = Layout(
    agent=(0, 1, 2), bodies=(Body(position=(4, 5, 6)), Body(position=(36, 37, 38))), discrete=(3,)
)


HELD = 4  # simulator steps that an action is held for in tasks with pictures
PICTURE = 32  # [pixel]
WITH_PICTURES = "-pixels"  # what is added to the name of a task with pictures


def metaworld_tasks() -> tuple[Task, ...]:
    """Return the fifty tasks in alphabetical order, whose reward is 0 to 10 a step, and the one with pictures."""
    states = {name: _task(name) for name in NAMES}
    # The arm moves by up to 4 cm in a step of this one, which a picture of 32 pixels shows.
    name = f"reach-v3{WITH_PICTURES}"
    pictures = replace(
        states["reach-v3"],
        id=name,
        name=name,
        max_episode_steps=500 // HELD,
        control_rate=80.0 / HELD,
        image_size=PICTURE,
    )
    return (*states.values(), pictures)


def _task(name: str) -> Task:
    return Task(
        id=name,
        name=name,
        simulator="metaworld",
        observation_size=39,
        action_size=4,
        max_episode_steps=500,
        min_episode_reward=0.0,
        max_episode_reward=5000.0,
        min_episode_cost=0.0,
        max_episode_cost=1.0,
        dataset_file="",
        binary_cost=True,
        score="success",
        control_rate=80.0,
        layout=LAYOUT,
    )
