"""Options of the page's server: shared by demo.py and live/web/server.py."""

from __future__ import annotations

import argparse
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from util.cli import UserError

LOOPBACK = "127.0.0.1"
PORT = 8750
PASSWORD_VARIABLE = "HEAD2HEAD_PASSWORD"  # for a password that the list of processes shall not show
LEAST_PASSWORD = 8  # characters


@dataclass(frozen=True)
class WebOptions:
    """How the page is served, and where persons, datasets and results lie.

    tls: None: plain http; (): https with a self-made certificate; (certificate, key): https with these PEM files.
    checkpoints_dir, datasets_dir, results_dir: None: the repository's own.
    """

    host: str = LOOPBACK
    port: int = PORT
    password: str | None = None
    tls: tuple[Path, ...] | None = None
    checkpoints_dir: Path | None = None
    datasets_dir: Path | None = None
    results_dir: Path | None = None
    backend: str = "auto"
    gpu_ids: str = "auto"
    max_upload_bytes: int = 2_000_000_000  # of a video: ten minutes of a phone's 4K
    max_video_s: float = 600.0  # ten minutes: longer ones teach nothing more, and take hours to preprocess

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def check(self) -> None:
        """Raises: UserError when the page would be open to others without a password, or a value makes no sense."""
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port}: give a number from 0 (any free port) to 65535")
        if self.password is not None and len(self.password) < LEAST_PASSWORD:
            raise UserError(f"--password: give at least {LEAST_PASSWORD} characters")
        if not self.is_local and self.password is None:
            raise UserError(
                f"--host {self.host} opens the page to other machines: give --password (or {PASSWORD_VARIABLE}), "
                "and --tls so that browsers show the camera"
            )
        for file in self.tls or ():
            if not file.is_file():
                raise UserError(f"--tls: there is no file {file}; give a certificate and its key (PEM), or --tls alone for a self-made one")


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add_web_options(p: argparse._ActionsContainer) -> None:
    """Add --host, --port, --password and --tls."""
    p.add_argument(
        "--host", default=LOOPBACK, metavar="H", help=f"address that the page listens on (default: {LOOPBACK}, this machine alone)"
    )
    p.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port of the page (default: {PORT})")
    p.add_argument(
        "--password", metavar="P", help=f"password of the page; needed beyond this machine (or {PASSWORD_VARIABLE} in the environment)"
    )
    p.add_argument(
        "--tls",
        nargs="*",
        type=Path,
        metavar="PEM",
        help="https, which browsers ask for before they show a camera to a page of another machine: with the files CERTIFICATE KEY, "
        "or with a self-made certificate",
    )


def web_options(o: argparse.Namespace, **more: object) -> WebOptions:
    """The options that were parsed, and further fields of WebOptions. Raises: UserError."""
    if o.tls is not None and len(o.tls) not in (0, 2):
        raise UserError("--tls: give two files, CERTIFICATE KEY, or none for a self-made certificate")
    password = o.password if o.password is not None else os.environ.get(PASSWORD_VARIABLE) or None
    options = WebOptions(o.host, o.port, password, None if o.tls is None else tuple(o.tls), **more)
    options.check()
    return options
