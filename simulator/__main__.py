"""The entry point: what needs nothing but text is answered before the rest is loaded, which takes seconds."""

import os
import sys
from importlib.metadata import version

from simulator import catalogue

INTERRUPTED = 130
"""The exit code after an interruption, as shells have it."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["list"]:
        print(catalogue.listing())
        return 0
    if arguments == ["--version"]:
        print(version("simulator"))
        return 0
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # most likely while it loads: running commands say more themselves
        print("simulator: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["explore"]:
        from simulator.explorer import command

        return command.main(arguments)
    from simulator import cli

    return cli.main(arguments)


def command() -> None:
    """The command itself: run what the shell says and end the process with its exit code.

    At once after an interruption: a thread may still compute, and a thread that returns from compiled code to an
    interpreter which is being taken down aborts the process.
    """
    code = main()
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
