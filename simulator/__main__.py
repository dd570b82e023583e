"""The entry point: what needs nothing but text is answered before the rest is loaded, which takes seconds."""

import sys
from importlib.metadata import version

from simulator import catalogue


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["list"]:
        print(catalogue.listing())
        return 0
    if arguments == ["--version"]:
        print(version("simulator"))
        return 0
    if arguments[:1] == ["explore"]:
        from simulator.explorer import command

        return command.main(arguments)
    from simulator import cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
