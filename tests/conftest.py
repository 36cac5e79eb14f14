"""What all tests share: how Hypothesis runs."""

from hypothesis import settings

# Cores here are shared: how long an example takes says nothing about the code.
settings.register_profile("landbridge", deadline=None)
settings.load_profile("landbridge")
