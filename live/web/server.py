"""The page's server: `serve` shows it until it is interrupted."""

from __future__ import annotations

from live.web.options import WebOptions


def serve(options: WebOptions) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises: UserError when the port is taken, or options cannot be used."""
    raise NotImplementedError
