"""What holds for all tests."""

from hypothesis import settings

# On a machine that others use too, how long one example takes says nothing.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
