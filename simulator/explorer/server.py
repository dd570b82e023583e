"""Serving the explorer's page on this machine."""

import gc
import importlib.util
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simulator.explorer.assets import with_assets
from simulator.explorer.computer import shared

HOST = "127.0.0.1"
"""Nobody else's machine can reach the page."""
PAGE = Path(__file__).with_name("page.py")


class ExplorerError(Exception):
    """The explorer cannot be started."""


def serve(port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the page at a port of this machine, 0 for any free one, until interrupted, which ends the process.

    `say` is told the address.

    The first answer is computed while the browser starts.  Raises `ExplorerError` if the extra `explorer` is not
    installed or the port cannot be had.
    """
    if importlib.util.find_spec("marimo") is None:
        raise ExplorerError("the explorer needs marimo, which is not installed: pip install 'simulator[explorer]'")
    with _listening(port) as listener:
        shared()
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        say(address)
        if browser:
            # The socket listens already: the page waits there until the server answers.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        _run(listener)


def _get_ready_to_draw() -> None:
    """Load and draw what every picture needs: while the browser loads the page there is time."""
    from simulator import plots

    plots.explorer_frame()
    # Looking for cycles among all that is loaded by now would take up to half a second, in the middle of an answer.
    gc.freeze()


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise ExplorerError(
            f"port {port} cannot be had ({error}): give another --port, or 0 for any free one"
        ) from error
    return listener


def _run(listener: socket.socket) -> None:
    import marimo
    import uvicorn

    page = marimo.create_asgi_app(quiet=True).with_app(path="", root=str(PAGE)).build()
    threading.Thread(target=_get_ready_to_draw, daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(with_assets(page), log_level="warning", timeout_graceful_shutdown=1))
    with suppress(KeyboardInterrupt):  # how a user ends it
        server.run(sockets=[listener])
    # Marimo's threads wait for messages of pages that are gone, and Python would wait for them; nothing is to be saved.
    shared().end()
    sys.stdout.flush()
    os._exit(0)
