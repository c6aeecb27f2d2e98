"""Several processes on this machine: the parameters of one process, also after one of them was killed."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, TextIO

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import cluster
from tests.conftest import QUICK

STEPS, SAVE_EVERY = 150, 25


class Started(NamedTuple):
    process: BaseProcess
    printed: TextIO

    def rest(self) -> str:
        """What it prints until it ends."""
        with self.printed:
            return self.printed.read()


def program(arguments: list[str], printed: Connection) -> None:
    """What `python -m tests.cluster` does, with one device a process."""
    for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
    os.environ["XLA_FLAGS"] = QUICK
    sys.argv[1:] = arguments
    cluster.main()


def start(checkpoints: Path, processes: int) -> list[Started]:
    """The program of notebook 08. All are forked from one process that has imported it, which takes longer than it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ["--checkpoints", str(checkpoints), "--coordinator", address, "--steps", str(STEPS)]
    arguments += ["--save-every", str(SAVE_EVERY), "--processes", str(processes), "--process"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started = []
    for i in range(processes):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=program, args=([*arguments, str(i)], writer))
        process.start()
        started.append(Started(process, os.fdopen(os.dup(reader.fileno()))))
        reader.close()
        writer.close()
    return started


def kill(started: list[Started]) -> None:
    for one in started:
        one.process.kill()


def finish(started: list[Started]) -> list[str]:
    too_late = threading.Timer(120, kill, [started])
    too_late.start()
    outputs = [one.rest() for one in started]
    too_late.cancel()
    for one in started:
        one.process.join()
    assert [one.process.exitcode for one in started] == [0] * len(started), "\n".join(outputs)
    return outputs


def kill_one_then_all(started: list[Started], step: int) -> None:
    """SIGKILL the last process when it says that it did a step; then the others, as a scheduler does."""
    last = started[-1]
    for line in last.printed:
        if line.startswith(f"step {step}:"):
            last.process.kill()
            break
    last.process.join(60)
    assert last.process.exitcode == -signal.SIGKILL
    kill(started)
    for one in started:
        one.rest()
        one.process.join()


def saved(checkpoints: Path) -> tuple[int, dict[str, np.ndarray]]:
    """The last checkpoint: its step and its parameters."""
    with ocp.CheckpointManager(checkpoints) as manager:
        step = manager.latest_step() or 0
    folder, reader = checkpoints / str(step) / "default", ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).item_metadata.tree
    )
    return step, reader.restore(folder, restore_args=as_numpy)[0]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("one")
    params = {name: np.asarray(value) for name, value in cluster.train(str(folder), STEPS, SAVE_EVERY).items()}
    step, restored = saved(folder)
    assert step == STEPS
    for name, value in params.items():
        np.testing.assert_array_equal(restored[name], value)
    silent = (params["input"] == 0).all(1)
    assert silent.any() and not silent.all() and (params["output"] == 0).any()
    return params


def assert_result(checkpoints: Path, expected: dict[str, np.ndarray]) -> None:
    step, params = saved(checkpoints)
    assert step == STEPS
    for name, value in expected.items():
        np.testing.assert_array_equal(params[name] == 0, value == 0)
        np.testing.assert_allclose(params[name], value, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_and_resumed_on_several_processes(
    processes: int, one_process: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kill_one_then_all(start(tmp_path, processes), step=60)
    reached = saved(tmp_path)[0]
    assert reached in range(SAVE_EVERY, STEPS, SAVE_EVERY)
    for i, output in enumerate(finish(start(tmp_path, processes))):
        assert f"process {i} of {processes}: from step {reached}\n" in output
        assert "features are exactly zero" in output
    assert_result(tmp_path, one_process)
