"""Map a function over many runs: in chunks that fit into memory, over the devices there are, with a progress bar."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def run(
    one: Callable[..., Any],
    arguments: Callable[[int, int], tuple[Any, ...]],
    total: int,
    chunk: int | None,
    devices: Sequence[jax.Device] | None,
    progress: bool,
) -> Any:
    """Return the results of all runs stacked on axis 0, as NumPy arrays.

    Args:
        one: one run, a JAX function; it is compiled once, or again for smaller chunks where memory would not do.
        arguments: `(start, size) ->` the stacked arguments of the runs from `start` on.
        total: number of runs.
        chunk: number of runs at once; None for as many as fit into memory.
        devices: those to use; None for all.
        progress: whether to show a bar, in a terminal.
    """
    used = list(jax.devices() if devices is None else devices)[:total]
    program, sharding = _program(one, used)
    size = _even(total, chunk or total, len(used))
    while True:
        compiled = program.lower(*jax.device_put(arguments(0, size), sharding)).compile()
        fitting = size if chunk is not None else _fitting(compiled, size, used)
        if (smaller := _even(total, fitting, len(used))) >= size:
            break
        size = smaller
    with _bar(total, progress) as advance:
        parts = []
        for start in range(0, total, size):
            parts.append(jax.device_get(compiled(*jax.device_put(arguments(start, size), sharding))))
            advance(min(size, total - start))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:total], *parts)


def _program(one: Callable[..., Any], devices: list[jax.Device]) -> tuple[Any, Any]:
    if len(devices) == 1:
        return jax.jit(jax.vmap(one)), devices[0]
    mesh, spec = Mesh(np.array(devices), ("runs",)), PartitionSpec("runs")
    # a shard for each device: partitioning by the compiler would make every loop wait for all devices at each step
    program = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(program), NamedSharding(mesh, spec)


def _even(total: int, size: int, multiple: int) -> int:
    """A size of chunks, a multiple of the devices and if possible at most `size`, that leaves little to fill up."""
    chunks = math.ceil(total / max(multiple, min(size, total) // multiple * multiple))
    return math.ceil(total / chunks / multiple) * multiple


def _fitting(compiled: Any, size: int, devices: list[jax.Device]) -> int:
    """The number of trainings at once that fit into memory, if `size` of them need what the compiler says."""
    analysis, memory = compiled.memory_analysis(), _memory(devices)
    if analysis is None or memory is None:
        return size
    need = len(devices) * (analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
    return int(size * min(1.0, 0.9 * memory / max(need, 1)))


def _memory(devices: list[jax.Device]) -> float | None:
    """Bytes that the devices have together, None if they do not say."""
    if devices[0].platform == "cpu":  # these share the memory of the machine
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
    stats = [device.memory_stats() or {} for device in devices]
    return len(stats) * min(s["bytes_limit"] for s in stats) if all("bytes_limit" in s for s in stats) else None


@contextlib.contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda done: None
        return
    shown = progress and sys.stderr.isatty()  # rich takes the FORCE_COLOR of notebooks for a terminal
    with Progress(console=Console(stderr=True, force_jupyter=False), disable=not shown) as bar:
        task = bar.add_task("trainings", total=total)
        yield lambda done: bar.update(task, advance=done)
