"""What every test needs: Keras on its JAX backend, eight CPU devices for the sharding tests, and quick compilation.

Most of the time of the tests goes to the compiler, for programs that run once on a few numbers: XLA leaves most of its
optimizations out. JAX keeps what it compiled in `.pytest_cache`: the processes of one run share it, and the next run
finds it there. `pytest --cache-clear` begins anew, `-p no:cacheprovider` does without.

Programs as users compile them, which `.ci/run` tests as well:

    JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest
"""

import gc
import importlib.metadata
import itertools
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

# XLA compiles small programs a quarter sooner in one piece than in pieces for several threads. Two passes over loops,
# which it takes a dozen times, are up to two fifths of the time of a program that has them. With its newer emitters it
# takes twice as long, and so do trainings in a scan. A flag that it does not know would end the process.
_JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
_FEW_PASSES = "--xla_disable_hlo_passes=while-loop-invariant-code-motion,simplify-while-loops"
QUICK = f"--xla_cpu_parallel_codegen_split_count=1 {_FEW_PASSES}"
QUICK += " --xla_cpu_use_fusion_emitters=false" if (0, 8) <= _JAXLIB <= (0, 10) else ""

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK}")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # no stack of calls beside each operation: a twentieth
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # skglm on ten features: a thirtieth of the time


collect_ignore = ["benchmarks/pruning/torch_networks.py"]  # needs PyTorch, which the extra `test` has not


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lowered-for", choices=("cpu", "gpu", "tpu"), default="cpu", help="run what such a device runs")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports JAX. Programs are for one kind of processor: a folder for each machine.

    A garbage collection walks over all that JAX, Flax and Keras hold: a twentieth of the time, so it comes less often.
    """
    gc.set_threshold(50_000, 20, 100)
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir(f"jax-{platform.node()}")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        # As in pyproject.toml, for the processes that tests start.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:Error reading persistent compilation cache:UserWarning")
    if (device := config.getoption("lowered_for")) != "cpu":
        from jaxreg._core import compiler
        from tests.devices import take_what_runs_on

        take_what_runs_on(device, patch := pytest.MonkeyPatch())
        patch.setattr(compiler, "LARGE", 64)  # small arrays too


def pytest_collection_finish() -> None:
    """Before 0.12, JAX makes a context of MLIR for each program, a quarter of the time of a small one. As newer JAX
    does, let each thread use one for several."""
    gc.freeze()  # what is imported by now stays
    from jax._src.interpreters import mlir

    if _JAXLIB < (0, 12) and (make := getattr(mlir, "make_ir_context", None)):
        thread = threading.local()

        def make_ir_context() -> object:
            if mlir.ir.Context.current is not None:  # a program inside another, while that is lowered
                return make()
            thread.count = getattr(thread, "count", -1) + 1
            if thread.count % 100 == 0:
                thread.context = make()
            return thread.context

        mlir.make_ir_context = make_ir_context


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Programs stay in JAX's caches: what a file leaves is looked through once, not by each later collection, which
    would take seconds by the end."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers compare the ids of their tests, and an address is another one in each."""
    with_address = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if with_address:
        raise pytest.UsageError(f"Ids with an address; give them names, `ids=...`: {with_address}")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Run what a GPU runs; the groups of the sums that were taken. Nothing traced before is used, nor this later."""
    yield from _on("gpu", monkeypatch)


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The same for a TPU."""
    yield from _on("tpu", monkeypatch)


def _on(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    import jax

    from jaxreg._core import euclidean
    from tests.devices import take_what_runs_on

    def clear() -> None:
        jax.clear_caches()
        euclidean._ways.cache_clear()

    clear()
    yield take_what_runs_on(device, monkeypatch)
    clear()


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Compile with all optimizations: for programs that run so long that these pay for themselves."""
    import jax  # not before `pytest_configure`

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def calls() -> Callable[[Callable[[], object]], int]:
    """How many functions of Python and C a function calls: work that is the same on every machine."""

    def counted(function: Callable[[], object]) -> int:
        count = itertools.count()
        sys.setprofile(lambda frame, event, argument: next(count) if event.endswith("call") else None)
        try:
            function()
        finally:
            sys.setprofile(None)
        return next(count)

    return counted
