"""ROS 2: a node around the controller, and a launch file. Imports rclpy, which comes with ROS, only when it runs."""
