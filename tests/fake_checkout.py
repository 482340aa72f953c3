"""A copy of the repository's scripts whose .venv counts as installed, with a stand-in for its Python that does not run the long steps."""

import shutil
import sys
from pathlib import Path

from util import installation

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("system.sh", "setup_env.sh", "setup_env.py", "quickstart.sh", "quickstart.py", "find_identity.py")


def copy_scripts(home):
    """The scripts that make an environment and run the quickstart, and util; no packages are asked for. Returns `home`."""
    (home / "scripts").mkdir(parents=True)
    for name in SCRIPTS:
        shutil.copy(ROOT / "scripts" / name, home / "scripts")
    shutil.copytree(ROOT / "util", home / "util", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "options").symlink_to(ROOT / "options")
    for name in (*installation.LOCK, *installation.RANGES):
        (home / name).touch()
    return home


def fake_checkout(home, **steps):
    """copy_scripts, and .venv/bin/python that runs shell code for the steps: name of the command without .py = code.

    All others do nothing, but for the finding of identities; there is no GPU. Returns `home`.
    """
    copy_scripts(home)
    python = installation.venv_python(home)
    python.parent.mkdir(parents=True)
    cases = "".join(f"  *{name}.py*) {code} ;;\n" for name, code in steps.items())
    python.write_text(f'''#!/bin/sh
case "$*" in
  *cuda.is_available*) exit 1 ;;
{cases}  -*|*scripts/setup_env.py*|*scripts/quickstart.py*|*scripts/find_identity.py*) exec "{sys.executable}" "$@" ;;
esac
''')
    python.chmod(0o755)
    key = installation._key(home, False, installation.this_interpreter())
    (home / ".venv" / ".installed").write_text(key + "\n")
    return home
