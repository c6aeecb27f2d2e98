"""Test the oldest or the newest supported versions in a virtual environment of their own.

    python -m tests.floors oldest              # the lower bounds of pyproject.toml, on this Python
    python -m tests.floors newest --python python3.13
    python -m tests.floors oldest --python python3.11 tests/test_modes.py -m ""

What follows goes to pytest; without it, the tests of the core, sharding and strict modes included. The environment is
thrown away, so that nothing of it can be left over.
"""

import argparse
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = (
    "penalties",
    "regularizer",
    "prox",
    "tree",
    "transform",
    "config",
    "modes",
    "sharding",
    "linen_losses",
    "nnx_losses",
)


def lower_bounds() -> list[str]:
    """`name==version` for every `name>=version` that a user of the package, of its Flax and Keras sides installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["flax"], *extras["keras"]]
    return [re.sub(r">=", "==", requirement) for requirement in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["oldest", "newest"])
    parser.add_argument("--python", default="python3", help="the interpreter, default python3")
    args, pytest_args = parser.parse_known_args()
    tests = pytest_args or [f"tests/test_{name}.py" for name in CORE] + ["-m", "not slow", "-q"]
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        subprocess.run([args.python, "-m", "venv", folder], check=True)
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(lower_bounds()) if args.which == "oldest" else "")
        install = [python, "-m", "pip", "install", "-q", "--upgrade", "-c", str(constraints), "-e", f"{ROOT}[test]"]
        subprocess.run(install, check=True)
        versions = "; ".join(
            f"print('{name}', m.version('{name}'))" for name in ("jax", "flax", "optax", "numpy", "keras")
        )
        subprocess.run(
            [python, "-c", f"import importlib.metadata as m, sys; print(sys.version); {versions}"], check=True
        )
        return subprocess.run([python, "-m", "pytest", *tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
