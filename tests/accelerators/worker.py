"""A process that compiles one program after another, each within a limit of time.

`python -m tests.accelerators.worker LIMIT` reads a request a line and writes a result a line, both JSON. Nothing
interrupts a compiler from within: the system ends the process where a program takes more than its share of the
processor, and `Compilers` starts another.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class Compilers:
    """`compile(family, work, program, target)` -> the result as a dict, from a process of its own."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # seconds of processor time that a program may take
        self._process: subprocess.Popen[str] | None = None

    def compile(self, family: str, work: str, program: str, target: str) -> dict[str, Any]:
        request = {"family": family, "work": work, "program": program, "target": target}
        process = self._process = self._process or self._start()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        if answer := process.stdout.readline():
            result = json.loads(answer)
            if "error" in result:
                raise RuntimeError(f"{request}\n{result['error']}\nThe compilers come with `pip install -e '.[aot]'`.")
            return {**request, **result}
        self._process = None
        with process:  # which closes its pipes
            process.wait()
        if process.returncode != -signal.SIGXCPU:
            raise RuntimeError(f"The compiler of {request} ended with {process.returncode}.")
        return {**request, "limit": self.limit}

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        """All optimizations, as users compile; what the runtimes of TPU and CUDA miss on this machine is not shown."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("XLA_", "JAX_"))}
        command = [sys.executable, "-m", "tests.accelerators.worker", str(self.limit)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=env
        )


def main() -> None:
    from tests.accelerators import measure  # the parent needs no JAX

    limit = int(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            measure.prepare(**request)  # what programs share, such as the yardstick, counts for none of them
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + limit + 1, hard))
            answer = measure.compare(**request)
        except Exception:  # the parent shows it
            answer = {"error": traceback.format_exc()}
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
