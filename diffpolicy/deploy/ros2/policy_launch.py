"""Starts a policy server and the controller's node: `ros2 launch policy_launch.py export:=FOLDER rate:=50.0`."""

import sys
from typing import Any

from launch import LaunchDescription  # type: ignore[import-not-found]
from launch.actions import DeclareLaunchArgument, ExecuteProcess  # type: ignore[import-not-found]
from launch.substitutions import LaunchConfiguration  # type: ignore[import-not-found]

OPTIONS = {
    "export": ("", "a folder of `diffpolicy export`"),
    "port": ("8000", "of the policy server, on this machine"),
    "rate": ("50.0", "commands per second [Hz]"),
    "joint_states": ("joint_states", "topic, sensor_msgs/JointState"),
    "trajectory": (
        "joint_trajectory_controller/joint_trajectory",
        "topic, trajectory_msgs/JointTrajectory",
    ),
    "dry_run": ("true", "true: everything but sending; set it to false when the robot may move"),
}


def generate_launch_description() -> LaunchDescription:
    """Describe both processes; a server that ends is started again, and the node holds the robot meanwhile."""
    value = {name: LaunchConfiguration(name) for name in OPTIONS}
    server = [
        sys.executable,
        "-m",
        "diffpolicy",
        "serve",
        ["export=", value["export"]],
        ["port=", value["port"]],
    ]
    node: list[Any] = [sys.executable, "-m", "diffpolicy.deploy.ros2.node", "--ros-args"]
    node += ["-p", ["uri:=ws://127.0.0.1:", value["port"]]]
    for name in ("rate", "joint_states", "trajectory", "dry_run"):
        node += ["-p", [f"{name}:=", value[name]]]
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in OPTIONS.items()
    ]
    return LaunchDescription(
        [
            *arguments,
            ExecuteProcess(cmd=server, output="screen", respawn=True, respawn_delay=1.0),
            ExecuteProcess(cmd=node, output="screen"),
        ]
    )
