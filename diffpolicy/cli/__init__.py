"""The command line: one verb per job, each in a module of its own that is imported when it is asked for."""
