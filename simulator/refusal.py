"""How a command says that it cannot go on."""

import sys

import cyclopts


def one_sentence(error: cyclopts.CycloptsError) -> str:
    """What was wrong with a command line, without its line breaks."""
    return " ".join(str(error).split())


def fail(sentence: str, code: int = 2) -> int:
    """Say why there is no result; returns the exit code."""
    print(f"simulator: {sentence}", file=sys.stderr)
    return code
