"""The order among the project's modules: who may import whom, no circles, and no work at import."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# room -> the rooms that its modules may import
BASE = ("options", "preprocessing", "data", "models")
ROOMS = {"util": {"util"}, **{room: {"util", room} for room in BASE}, "live": {"util", "live", *BASE}}
NO_WORK = """
import importlib, os, sys, threading

def forbid(event, arguments):
    if event in ("subprocess.Popen", "os.system", "socket.connect", "urllib.Request", "os.mkdir"):
        raise RuntimeError(f"{event} at import: {arguments}")
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and arguments[0] != os.devnull:
        raise RuntimeError(f"writes {arguments[0]} at import")

for library in HEAVY:  # imported before the hook: what libraries do at import is not tested here
    importlib.import_module(library)
sys.addaudithook(forbid)
for name in NAMES:
    before = threading.active_count(), set(sys.modules)
    importlib.import_module(name)
    if threading.active_count() > before[0]:
        print(name, "starts a thread")
    for library in sorted({"torch", "mediapipe", "wgpu"} & (set(sys.modules) - before[1])):
        print(name, "imports", library)
if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
    print("CUDA is initialised")
"""


@cache
def modules():
    """Name -> file of every module outside of tests/."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(line) for line in listed.stdout.split() if (ROOT / line).is_file() and not line.startswith("tests/")]
    return {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree(name):
    return ast.parse((ROOT / modules()[name]).read_text())


def imported(code, name, known, is_package=False):
    """The modules of `known` that a module imports: at its top, in functions, and for type checking alike.

    `from package import x` means the module package.x where there is one, else the package itself, whose __init__ gives x.
    """
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".") + [""] * is_package
            base = ".".join([*parts[: len(parts) - node.level], *filter(None, [node.module])]) if node.level else node.module
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return found & set(known)


@cache
def imports():
    """Name -> names of the project's modules that it imports."""
    return {name: imported(tree(name), name, modules(), file.name == "__init__.py") for name, file in modules().items()}


def is_command(code):
    """Whether a file runs something when it is called: `if __name__ == "__main__"`."""
    tests = [node.test for node in code.body if isinstance(node, ast.If)]
    return any(isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__" for test in tests)


def circles(graph):
    """Sets of nodes that reach one another, each sorted."""
    reached = {}
    for start in graph:
        seen, ahead = set(), [start]
        while ahead:
            for other in graph.get(ahead.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    ahead.append(other)
        reached[start] = seen
    return {tuple(sorted(b for b in reached[a] if a in reached.get(b, ()))) for a in graph if a in reached[a]}


def commands():
    return {name for name in modules() if is_command(tree(name))}


def test_no_module_imports_a_command():
    assert not [f"{name} imports the command {other}" for name, others in imports().items() for other in others & commands()]


def test_rooms_import_in_one_direction():
    wrong = []
    for name in set(modules()) - commands():
        allowed = ROOMS.get(name.split(".")[0])
        if allowed:
            wrong += [f"{name} imports {other}" for other in imports()[name] if other.split(".")[0] not in allowed]
    assert not sorted(wrong)


def test_there_are_no_circles():
    assert not circles(imports())


def import_all(names, libraries=()):
    code = NO_WORK.replace("HEAVY", repr(libraries)).replace("NAMES", repr(sorted(names)))
    return subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_light_rooms_import_without_heavy_libraries_and_do_nothing():
    light = ("util", "options", "preprocessing")
    done = import_all(name for name in set(modules()) - commands() if name.split(".")[0] in light)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_importing_any_module_does_nothing():
    """Nothing is built, downloaded, written or started; CUDA is not initialised."""
    done = import_all((name for name in set(modules()) - commands() if name.split(".")[0] in ROOMS), ("torch", "torchvision"))
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_the_finders_find():
    """Imports of every kind, commands and circles in small examples."""
    known = ("a", "a.b", "a.c", "a.d", "e", "f")
    code = ast.parse(
        "import os, e\nfrom a import b, name\nif TYPE_CHECKING:\n    from f import x\ndef g():\n    from .c import y\n    from . import d\n"
    )
    assert imported(code, "a.b", known) == set(known)
    assert imported(ast.parse("from .c import y"), "a", known, is_package=True) == {"a.c"}
    assert is_command(ast.parse('x = 1\nif __name__ == "__main__":\n    run()')) and not is_command(ast.parse("if x == 1:\n    run()"))
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}, "f": {"d"}}
    assert circles(graph) == {("a", "b", "c"), ("e",)}
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
