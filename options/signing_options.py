"""The options that name the certificate by which a command seals what it writes, shared by all commands that write videos."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from util.cli import UserError
from util.credentials.certificates import CERTIFICATE, KEY
from util.credentials.sealing import find_sealer


def add_signing_options(parser: argparse._ActionsContainer) -> None:
    """Add --certificate and --key."""
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help=f"PEM certificate that seals what is written, the root last (default: {CERTIFICATE} in the environment, else one made here)",
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help=f"the certificate's private key, PEM (default: {KEY} in the environment)")


def use_certificate(options: argparse.Namespace) -> None:
    """Have this process, and those that it starts, seal with the certificate that the options name; tried now, before any work.

    Raises: UserError when that certificate, or the one that the environment names, is of no use.
    """
    if (options.certificate is None) != (options.key is None):
        raise UserError("--certificate and --key belong together; give both, or none for a certificate that is made here")
    if options.certificate is not None:
        os.environ[CERTIFICATE], os.environ[KEY] = str(options.certificate.absolute()), str(options.key.absolute())
    if os.environ.get(CERTIFICATE) or os.environ.get(KEY):
        find_sealer()
