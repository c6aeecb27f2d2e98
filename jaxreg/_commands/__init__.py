"""The commands of `python -m jaxreg`."""

STOPPED = 130  # the exit code after Ctrl-C, as shells have it
