"""The node: sensor_msgs/JointState in, trajectory_msgs/JointTrajectory out, std_srvs/Trigger to reset and to stop.

`python -m diffpolicy.deploy.ros2.node --ros-args -p uri:=ws://127.0.0.1:8000 -p rate:=50.0`. All it decides is in
`diffpolicy.deploy.joints` and `diffpolicy.deploy.controller`; here is only what needs rclpy.
"""

import signal
import threading
import time
from pathlib import Path
from typing import Any

from diffpolicy.deploy.client import PolicyClient
from diffpolicy.deploy.controller import Controller
from diffpolicy.deploy.joints import JointRobot, JointState, TrajectoryPoint
from diffpolicy.deploy.realtime import realtime

PARAMETERS = {
    "uri": "ws://127.0.0.1:8000",
    "token": "",
    "rate": 50.0,  # [Hz]
    "joint_states": "joint_states",
    "trajectory": "joint_trajectory_controller/joint_trajectory",
    "log_folder": str(Path.home() / ".ros" / "diffpolicy"),
    "dry_run": False,
    "priority": 0,  # above 0: SCHED_FIFO
}
FOREVER = 1e9  # [s]


def main() -> None:
    """Run until ROS shuts down, or SIGINT or SIGTERM; then brake the robot to rest."""
    import rclpy  # type: ignore[import-not-found]
    from rclpy.node import Node  # type: ignore[import-not-found]
    from rclpy.signals import SignalHandlerOptions  # type: ignore[import-not-found]

    # ROS's own handlers would close the publisher before the robot has been braked.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("diffpolicy_controller")
    options = {name: node.declare_parameter(name, value).value for name, value in PARAMETERS.items()}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.get_default_context().on_shutdown(stop.set)
    with realtime(int(options["priority"])):
        client = PolicyClient(str(options["uri"]), token=str(options["token"]) or None)
        try:
            _control(node, client, options, stop)
        finally:
            client.close()
            node.destroy_node()
            rclpy.try_shutdown()


def _control(node: Any, client: PolicyClient, options: dict[str, Any], stop: threading.Event) -> None:
    import rclpy
    from sensor_msgs.msg import JointState as JointStateMessage  # type: ignore[import-not-found]
    from std_srvs.srv import Trigger  # type: ignore[import-not-found]
    from trajectory_msgs.msg import (  # type: ignore[import-not-found]
        JointTrajectory,
        JointTrajectoryPoint,
    )

    manifest, period = client.wait(60.0), 1.0 / float(options["rate"])
    publisher = node.create_publisher(JointTrajectory, str(options["trajectory"]), 1)

    def publish(point: TrajectoryPoint) -> None:
        message, target = JointTrajectory(), JointTrajectoryPoint()
        message.joint_names, target.positions = list(point.names), list(point.positions)
        target.time_from_start.sec, target.time_from_start.nanosec = point.seconds, point.nanoseconds
        message.points = [target]
        publisher.publish(message)

    robot = JointRobot(manifest, period, publish)

    def receive(message: Any) -> None:
        measured = rclpy.time.Time.from_msg(message.header.stamp)
        age = 1e-9 * (node.get_clock().now() - measured).nanoseconds if measured.nanoseconds else 0.0
        robot.receive(JointState(message.name, message.position, message.velocity, message.effort), age)

    node.create_subscription(JointStateMessage, str(options["joint_states"]), receive, 1)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    controller = Controller(
        robot,
        client,
        manifest,
        Path(str(options["log_folder"])),
        rate=1.0 / period,
        dry_run=bool(options["dry_run"]),
    )
    client.shield_counts = controller.shield.counts

    def reset(_: Any, response: Any) -> Any:
        controller.restart()
        response.success, response.message = True, "reset: the robot goes on once it stands"
        return response

    def halt(_: Any, response: Any) -> Any:
        controller.stop("service ~/stop")
        response.success, response.message = True, "stopped until ~/reset; this is no emergency stop"
        return response

    node.create_service(Trigger, "~/reset", reset)
    node.create_service(Trigger, "~/stop", halt)
    _wait_for_joints(robot, stop)
    if not stop.is_set():
        controller.start()
        controller.run(FOREVER, stop)


def _wait_for_joints(robot: JointRobot, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            robot.start()
        except ValueError:
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    main()
