"""Compile one program for devices that are not there, and say what it costs beside its yardstick."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from tests.accelerators import growth, penalties, reading, steps
from tests.accelerators.targets import TARGETS
from tests.benchmarks import programs


class Program(NamedTuple):
    """A function of arrays that are not there, and what it is compared with."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    donate: tuple[int, ...] = ()
    yardstick: Callable[[], float] | None = None  # its cost
    compiles: bool = True


def prepare(family: str, work: str, program: str, target: str) -> None:
    """Compile the yardstick, which several programs share. The first program of a process starts the compiler too."""
    if yardstick := FAMILIES[family](work, program, target).yardstick:
        yardstick()


def compare(family: str, work: str, program: str, target: str) -> dict[str, Any]:
    """Seconds of a processor to trace and to compile, the ratio to the yardstick, temporaries, kernels, collectives.

    Or, under `refused`, why jaxreg has no such operator.
    """
    wanted = FAMILIES[family](work, program, target)
    start = time.process_time()
    try:
        lowered = jax.jit(wanted.function, donate_argnums=wanted.donate, keep_unused=True).lower(*wanted.args)
    except NotImplementedError as refusal:
        return {"refused": str(refusal)}
    traced = time.process_time()
    found: dict[str, Any] = {"trace": round(traced - start, 3)}
    if not wanted.compiles:
        return found
    compiled = lowered.compile()
    found["compile"] = round(time.process_time() - traced, 3)
    if wanted.yardstick is None:
        return found
    read = reading.read(compiled)
    return found | {
        "ratio": round(_amount(read.cost, target) / wanted.yardstick(), 3),
        "kernels": read.cost.kernels,
        "temporaries": read.temporaries,
        "collectives": read.collectives,
    }


def _amount(cost: reading.Cost, target: str) -> int:
    """What is compared: on a TPU the cycles that its compiler foretells, on a GPU the bytes that kernels move."""
    return cost.cycles if TARGETS[target].platform == "tpu" else cost.moved


def _penalty(work: str, program: str, target: str) -> Program:
    function, args = penalties.program(work, program, TARGETS[target])
    return Program(function, args, yardstick=lambda: _limit(program, args[0], target))


@functools.cache
def _limit(program: str, x: jax.ShapeDtypeStruct, target: str) -> float:
    function, times = penalties.YARDSTICKS[program]
    return times * _amount(reading.read(programs.compile_(function, x)).cost, target)


def _step(work: str, program: str, target: str) -> Program:
    step = steps.steps()[work]
    function, args = steps.program(step.transformation, TARGETS[target], step.is_of_one_kernel)
    return Program(function, args, _DONATED, lambda: _plain_step(step.plain, target, step.is_of_one_kernel))


_DONATED = (0, 1)  # parameters and state


@functools.cache
def _plain_step(plain: Any, target: str, is_one_kernel: bool) -> int:
    function, args = steps.program(plain, TARGETS[target], is_one_kernel)
    return _amount(reading.read(programs.compile_(function, *args, donate=_DONATED)).cost, target)


def _growth(work: str, program: str, target: str) -> Program:
    leaves = int(program)
    return Program(*growth.program(work, leaves, TARGETS[target]), compiles=leaves <= growth.TRACED_ONLY)


FAMILIES: dict[str, Callable[[str, str, str], Program]] = {"penalties": _penalty, "steps": _step, "growth": _growth}
