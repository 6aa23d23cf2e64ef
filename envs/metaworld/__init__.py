"""The fifty tasks of Meta-World: a Sawyer arm with a gripper at a table."""
