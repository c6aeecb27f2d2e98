"""The command line: `python -m jaxreg` and the script `jaxreg`."""

import contextlib
import os
import sys
from collections.abc import Sequence

from jaxreg._commands.main import STOPPED
from jaxreg._commands.main import main as run


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; after Ctrl-C end at once, since jaxlib crashes if Python shuts it down while it compiles."""
    code = run(argv)
    if code == STOPPED:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
