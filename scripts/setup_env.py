"""Make .venv in the repository and install what Head2Head needs; does nothing when that is already done.

    python scripts/setup_env.py              the versions of requirements.lock, which were tested together
    python scripts/setup_env.py --latest     the newest that requirements.txt allows; to go back, delete .venv

Needs Python 3.10 or newer and nothing else. .venv is made from $PYTHON3 if that is set, else from the Python 3.10 to 3.12 that is found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where Python is too old)

from util.installation import InstallationError, make_environment


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--latest", action="store_true", help="the newest versions that requirements.txt allows, not the tested ones")
    make_environment(parser.parse_args(argv).latest)


if __name__ == "__main__":
    try:
        main()
    except InstallationError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
