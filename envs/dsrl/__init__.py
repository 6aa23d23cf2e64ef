"""The DSRL benchmark's tasks, on current versions of gymnasium and mujoco."""
