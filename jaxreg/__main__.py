"""The command line: `python -m jaxreg` and the script `jaxreg`."""

import contextlib
import os
import sys
from collections.abc import Sequence

from jaxreg._commands import STOPPED


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; after Ctrl-C end at once, since jaxlib crashes if Python shuts it down while it compiles."""
    try:
        from jaxreg._commands.main import main as run

        code = run(argv)
    except KeyboardInterrupt:  # while the commands are imported
        print("python -m jaxreg: stopped by Ctrl-C.", file=sys.stderr, flush=True)
        code = STOPPED
    if code == STOPPED:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
