"""Several processes on this machine: the parameters of one process, also after one of them was killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import cluster
from tests.conftest import QUICK

ROOT = Path(__file__).parent.parent
STEPS, SAVE_EVERY = 100, 20  # a step of four processes on two cores is mostly waiting, which costs them time as well


def start(checkpoints: Path, processes: int) -> list[subprocess.Popen[str]]:
    """The program of notebook 08 as a user starts it, with one device a process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": QUICK}
    command = [sys.executable, "-m", "tests.cluster", "--checkpoints", str(checkpoints), "--coordinator", address]
    command += ["--steps", str(STEPS), "--save-every", str(SAVE_EVERY), "--processes", str(processes), "--process"]
    return [
        subprocess.Popen(
            [*command, str(i)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for i in range(processes)
    ]


def finish(started: list[subprocess.Popen[str]]) -> list[str]:
    try:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(outputs)
    return outputs


def kill_one_then_all(started: list[subprocess.Popen[str]], step: int) -> None:
    """SIGKILL the last process when it says that it did a step; then the others, as a scheduler does."""
    last = started[-1]
    assert last.stdout
    for line in last.stdout:
        if line.startswith(f"step {step}:"):
            last.send_signal(signal.SIGKILL)
            break
    assert last.wait(60) == -signal.SIGKILL
    for process in started:
        process.kill()
        process.communicate()


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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_killed_and_resumed_on_several_processes(
    processes: int, one_process: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kill_one_then_all(start(tmp_path, processes), step=48)
    reached = saved(tmp_path)[0]
    assert reached in range(SAVE_EVERY, STEPS, SAVE_EVERY)
    for i, output in enumerate(finish(start(tmp_path, processes))):
        assert f"process {i} of {processes}: from step {reached}\n" in output
        assert "features are exactly zero" in output
    assert_result(tmp_path, one_process)
