"""The list of commands, their parser, and what every one of them returns to the shell."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from jaxreg import __version__
from jaxreg._commands import STOPPED
from jaxreg._commands.checkpoints import convert, inspect
from jaxreg._commands.cli import UserError
from jaxreg._commands.demo import command as demo
from jaxreg._commands.path import command as path
from jaxreg._core.text import printable

# A command is a module with NAME, SUMMARY, DESCRIPTION, EPILOG, `add_options(parser)` and `run(args) -> exit code`.
# It imports the packages of an extra in `run` only, so that `--help` needs nothing but jaxreg.
COMMANDS = (demo, path, inspect, convert)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 something the user can put right, 130 stopped by Ctrl-C.

    Args:
        argv: the arguments; by default those of the process.
    """
    _open_streams()
    parser = _parser()
    call = parser.prog
    try:
        args, unknown = parser.parse_known_args(argv)
        if unknown:  # argparse would show the usage of all commands, which has none of their options
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if args.command is None:
            parser.print_help()
            return 2
        call = f"{parser.prog} {args.command}"
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(printable(f"{call}: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe; Python flushes once more at exit
        _write_nowhere()
        return 0
    except OSError as error:  # those of files are UserErrors already; this is a full disk behind the output
        _write_nowhere()
        print(f"{call}: cannot write its output ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{call}: stopped by Ctrl-C.", file=sys.stderr, flush=True)
        return STOPPED


class _Parser(argparse.ArgumentParser):
    """Help that cannot be written is an error; argparse says nothing."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not sys.stdout:
            super()._print_message(message, file)
        elif message:
            file.write(message)
            file.flush()


def _open_streams() -> None:
    """Let a closed stream swallow what is written, and a narrow encoding show escapes for what it does not have."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the process ends
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _write_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m jaxreg",
        description="Regularizers for JAX, Flax and optax.",
        epilog="python -m jaxreg COMMAND --help shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"jaxreg {__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS:
        own = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the line breaks of the texts
        )
        command.add_options(own)
        own.set_defaults(run=command.run, parser=own)
    return parser
