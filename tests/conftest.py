"""What every test needs: Keras on its JAX backend, eight CPU devices for the sharding tests, and a cache of programs.

Most of the time of the tests goes to the compiler. JAX keeps what it compiled in `.pytest_cache`: the processes of one
run share it, and the next run finds it there. `pytest --cache-clear` begins anew, `-p no:cacheprovider` does without.
"""

import os
import platform

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports JAX. Programs are for one kind of processor: a folder for each machine."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir(f"jax-{platform.node()}")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
