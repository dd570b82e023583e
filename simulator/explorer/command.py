"""`simulator explore`, as a command line of its own: the other commands load all studies, which takes seconds."""

import cyclopts

from simulator.explorer.server import ExplorerError, serve
from simulator.refusal import fail, one_sentence

app = cyclopts.App(name="simulator", help_format="plaintext", suppress_keyboard_interrupt=False)


@app.command
def explore(*, port: int = 2718, browser: bool = True) -> None:
    """Open the explorer in the browser: defences side by side, trained again whenever a control moves.

    Parameters
    ----------
    port
        Of this machine, which nobody else can reach; 0 is any free one.
    browser
        Whether to open a browser at it.
    """
    serve(port, browser, lambda address: print(f"explorer at {address}; Ctrl-C ends it", flush=True))


def main(arguments: list[str]) -> int:
    """Run a command line that begins with `explore`; returns the exit code: 0, or 2 for bad input."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return fail(one_sentence(error))
    except ExplorerError as error:
        return fail(str(error))
    return 0
