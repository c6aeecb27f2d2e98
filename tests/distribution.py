"""What users install: `python -m tests.distribution` builds it, and looks at it from outside.

An sdist and, out of it, a wheel are built; twine reads their metadata; the wheel is installed into an environment that
has nothing else; there it runs, mypy reads its types in a file of a user, and what needs an extra says which. It takes
half a minute, most of it for installing JAX.

    --demo      installs the extra `demo` as well, and runs the demo
    --tag TAG   also holds that the tag is that of the version, and that the changelog has it
    --out DIR   keeps the sdist and the wheel there
    --minutes   instead of all that: a fresh clone, and how long the first results take in it; prints a row of a table
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLEAN = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}

# The first line fails if the wheel has no types: everything would be `Any`, and nothing an error.
USER = """import jaxreg
reveal_type(jaxreg.L1(0.5))
jaxreg.L1(l3=0.5)
jaxreg.L3(0.5)
"""
# Whether ours are read is asked here; reading those of JAX and NumPy would take half a minute.
QUICKLY = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("jax", "jaxlib", "numpy", "optax"))
SEEN = (
    'Revealed type is "jaxreg',
    'Unexpected keyword argument "l3"',
    'Module has no attribute "L3"',
    "Found 2 errors",
)

FIRST = """
import jax, jaxreg, jaxreg.__main__
assert "site-packages" in jaxreg.__file__, jaxreg.__file__
print("jaxreg", jaxreg.__version__, jax.grad(jaxreg.L1(0.5))(jax.numpy.array([-3.0, 0.0, 1.0])))
"""

# What needs a package of an extra, and the extra.
EXTRAS = {
    "-c|import jaxreg.linen": "flax",
    "-c|import jaxreg.nnx": "flax",
    "-c|import jaxreg.plot": "plot",
    "-c|import jaxreg.keras": "keras",
    "-m|jaxreg|demo": "demo",
    "-m|jaxreg|path": "demo",
}


def run(*command: str | Path, cwd: Path, ok: tuple[int, ...] = (0,)) -> str:
    """Run a command and print how long it took; return what it printed, which is on either stream of a failure."""
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=CLEAN, check=False)
    shown = " ".join(Path(part).name if os.sep in str(part) else str(part) for part in command)
    print(f"{time.perf_counter() - start:5.1f} s  {shown.strip().splitlines()[0][:90]}", flush=True)
    assert result.returncode in ok, result.stdout + result.stderr
    return result.stdout + (result.stderr if result.returncode else "")


def minutes(folder: Path) -> str:
    """What one waits for who begins: seconds on the clock, and of processor time, which other work delays less."""
    run("git", "clone", "-q", ROOT, folder / "jaxreg", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "-q")
    steps: tuple[tuple[str | Path, ...], ...] = (
        (sys.executable, "-m", "venv", folder / "venv"),
        (*install, folder / "jaxreg"),
        (python, "-c", "import jaxreg"),
        (python, "-c", FIRST),
        (*install, f"{folder / 'jaxreg'}[demo]"),
        (python, "-m", "jaxreg", "demo"),
    )
    cells = [f"{sys.version_info[0]}.{sys.version_info[1]}"]
    for step in steps:
        clock, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*step, cwd=folder)
        clock, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cells.append(f"{clock:.1f} ({used:.1f})")
    return f"| {' | '.join(cells)} |"


def build(out: Path) -> tuple[Path, Path]:
    """Build both, the wheel out of the sdist: so what the sdist lacks, the wheel lacks."""
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out.parent)
    (sdist,), (wheel,) = out.glob("jaxreg-*.tar.gz"), out.glob("jaxreg-*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=out)
    return sdist, wheel


def files_of(sdist: Path, wheel: Path) -> None:
    """The wheel has every file of the package and no other; the sdist the tests and notebooks as well."""
    here = {
        str(path.relative_to(ROOT)) for path in (ROOT / "jaxreg").rglob("*") if path.suffix in {".py", ".md", ".typed"}
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == here, packed ^ here
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert here | {"README.md", "LICENSE", "pyproject.toml", "tests/cases.py", ".github/CHANGELOG.md"} <= sources


def version_of(wheel: Path, tag: str | None) -> None:
    version = wheel.name.split("-")[1]
    assert f'__version__ = "{version}"\n' in (ROOT / "jaxreg" / "__init__.py").read_text()
    if tag is not None:
        assert tag == f"v{version}", f"The tag is {tag}, the version in jaxreg/__init__.py {version}."
        heading = rf"^## {re.escape(version)}\b"
        assert re.search(heading, (ROOT / ".github" / "CHANGELOG.md").read_text(), re.MULTILINE), "no changelog"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--tag")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.minutes:
            print(minutes(folder))
            return
        out = (options.out or folder / "dist").resolve()
        out.mkdir(parents=True, exist_ok=True)
        sdist, wheel = build(out)
        files_of(sdist, wheel)
        version_of(wheel, options.tag)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        extra = "[demo]" if options.demo else ""
        run(python, "-m", "pip", "install", "-q", "--no-compile", f"{wheel}{extra}", "mypy", cwd=folder)
        print(run(python, "-c", FIRST, cwd=folder), end="")
        run(python, "-m", "jaxreg", "--version", cwd=folder)
        (folder / "user.py").write_text(USER)
        (folder / "mypy.ini").write_text(f"[mypy]\n{QUICKLY}")
        types = run(python, "-m", "mypy", "user.py", cwd=folder, ok=(1,))
        assert all(line in types for line in SEEN), types
        for call, extra in EXTRAS.items() if not options.demo else ():
            told = run(python, *call.split("|"), cwd=folder, ok=(1, 2))
            assert f"jaxreg[{extra}]" in told, told
        if options.demo:
            run(python, "-m", "jaxreg", "demo", "--steps", "200", cwd=folder)
            assert (folder / "jaxreg-demo" / "weights.png").exists()
    print("distribution: 1 passed, 0 failed")


if __name__ == "__main__":
    main()
