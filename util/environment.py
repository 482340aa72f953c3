"""One sentence instead of a traceback where the environment is missing: commands import this first. Standard library only.

Importing it ends the process when Python is too old, and sets sys.excepthook for packages that turn out to be missing and
for Ctrl-C while they are imported.
"""

import re
import sys
import traceback
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_OLDEST = (3, 10)  # as in pyproject.toml
_PACKAGE_OF = {"cv2": "opencv_python_headless", "skimage": "scikit_image", "PIL": "pillow"}  # imported under another name
_next_hook = sys.excepthook


def _remedy():
    place = "" if Path.cwd() == _ROOT else f"cd {_ROOT}, then: "
    if sys.platform == "win32":
        return f"run: {place}python scripts/setup_env.py, then: .venv\\Scripts\\activate"
    return f"run: {place}bash scripts/setup_env.sh, then: source .venv/bin/activate"


def _is_ours(file):
    path = Path(file).resolve()
    return _ROOT in path.parents and "site-packages" not in path.parts


def _requirements():
    lists = [(_ROOT / name).read_text() for name in ("requirements.txt", "requirements-nodeps.txt")]
    return {name.lower().replace("-", "_") for name in re.findall(r"^[\w.-]+", "\n".join(lists), re.M)}


def _is_environments_fault(error, trace):
    """Whether a package of requirements.txt, or one that such a package needs, is not installed; else it is a bug of ours."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace) if frame.f_code.co_filename[:1] != "<"]
    if not error.name or not any(map(_is_ours, files)):
        return False
    return not _is_ours(files[-1]) or _PACKAGE_OF.get(error.name, error.name).lower() in _requirements()


def _hook(kind, error, trace):
    if isinstance(error, ModuleNotFoundError) and _is_environments_fault(error, trace):
        print(f"error: Head2Head's packages are missing ({error.name}); {_remedy()}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):  # while packages are imported, before util.cli.run says it
        print("\ninterrupted: run the same command again to go on from what is finished", file=sys.stderr)
        sys.exit(130)
    else:
        _next_hook(kind, error, trace)


if sys.version_info < _OLDEST:
    sys.exit("error: Head2Head needs Python 3.10 to 3.12, this is {}.{}; {}".format(*sys.version_info[:2], _remedy()))
sys.excepthook = _hook
