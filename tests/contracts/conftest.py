"""One process of four CPU devices, as tests/workers has them."""

import os

# Before jax is imported anywhere in this process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
