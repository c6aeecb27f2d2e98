"""Configs as an attack surface: mutated ones run nothing, import nothing, open nothing, hang nowhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("count", [10_000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_mutated_configs(count: int) -> None:
    """In an interpreter of its own, whose audit hook sees every import, file, `exec`, `compile` and subprocess."""
    command = [sys.executable, "-m", "tests.fuzz", str(count), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    events = report["events"]
    assert events.pop("open") == 1  # the one by which the program shows that the hook sees
    assert set(events) <= {"builtins.id", "object.__getattr__", "sys._getframe"}, events
    assert report["imported"] == []
    assert set(report["outcomes"]) == {"refused", "read"}, report["outcomes"]
    assert min(report["outcomes"].values()) > count / 50
    assert sum(report["outcomes"].values()) == 3 * count
    assert report["slowest"] < 2, report["worst"]  # seconds of CPU, a garbage collection included
