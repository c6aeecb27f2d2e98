"""What every test needs: Keras on its JAX backend, eight CPU devices for the sharding tests, and quick compilation.

Most of the time of the tests goes to the compiler, for programs that run once on a few numbers. So XLA leaves most of
its optimizations out; the files that hold what a compiled program costs ask for them (`optimized` below). JAX keeps what
it compiled in `.pytest_cache`: the processes of one run share it, and the next run finds it there.
`pytest --cache-clear` begins anew, `-p no:cacheprovider` does without.

All tests on programs as users compile them, which `.ci/run` does on the newer Python:

    JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest
"""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import pytest

# The emitters by MLIR take twice the time to compile. XLA ends the process at a flag that it does not know.
KNOWS_THE_FLAG = (0, 8) <= tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 12)
QUICK = " --xla_cpu_use_fusion_emitters=false" if KNOWS_THE_FLAG else ""

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8" + QUICK)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports JAX. Programs are for one kind of processor: a folder for each machine."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir(f"jax-{platform.node()}")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
