"""Maps a function over items on a Ray cluster. Ray is an optional requirement, imported when it is used."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from util.cli import UserError, listed, say
from util.image_io import write_bytes
from util.workers import TRIES, Died, thread_limits

Item = TypeVar("Item")
Result = TypeVar("Result")
# With other versions of these a machine might make other results.
_PACKAGES = ("numpy", "scipy", "opencv-python-headless", "av", "mediapipe", "numba")
_PROBE_S = 300  # for a machine to fetch the code and start its first process
_REACH_S = 10
_START = "start one: ray start --head, then on every other machine ray start --address=HOST:PORT; or use --workers on this machine"


def map_on_ray(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    address: str,
    *,
    code: Sequence[Path],
    base: Path,
    folder: Path,
    seen: Sequence[Path],
    memory: float,
) -> Iterator[tuple[Item, Result | Died]]:
    """Items with their results, as they are finished; a task each, on one core, that is tried again when its process or machine dies.

    work: picklable. address: auto, or host:port, of a running cluster. code: files and folders below `base`, where modules are imported
    from, that are sent to the machines. folder: shared by all machines, written to. seen: files that all must see. memory: that a task
    needs, bytes.
    Raises: UserError when there is no Ray or no such cluster, or a machine of it does not see the files or has other packages.
    """
    ray = _import_ray()
    _connect(ray, address, code, base)
    try:
        _check_machines(ray, folder, seen, memory)
    except BaseException:
        ray.shutdown()
        raise
    return _results(ray, work, items, memory)


def _results(ray: ModuleType, work: Callable[[Item], Result], items: Sequence[Item], memory: float) -> Iterator[tuple[Item, Result | Died]]:
    try:
        task = ray.remote(_run).options(num_cpus=1, memory=memory, max_retries=TRIES - 1, scheduling_strategy="SPREAD")
        waiting = {task.remote(work, item): item for item in items}
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                item = waiting.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayError as e:
                    result = Died(f"its task on the Ray cluster failed ({_first_line(e)})")
                yield item, result
    finally:
        ray.shutdown()  # ends the tasks too


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # to connect: each lasts 40 s, and of itself Ray makes 20
    try:
        import ray
    except ImportError as e:
        raise UserError(f"--ray needs Ray, which cannot be used here ({e}); run: pip install -r requirements-ray.txt") from None
    return ray


def _connect(ray: ModuleType, address: str, code: Sequence[Path], base: Path) -> None:
    place = _address_of_auto() if address == "auto" else address
    host, _, port = place.rpartition(":")
    if port.isdecimal():  # a quick look, since Ray itself tries for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
        except OSError as e:
            raise UserError(f"no Ray cluster can be reached at {place} ({e.strerror or e}); {_START}") from None
    with tempfile.TemporaryDirectory() as folder:
        for source in code:
            target = Path(folder) / source.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():  # fetched files are large: those that are needed are named one by one
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "files"))
            else:
                shutil.copy(source, target)
        environment = {"working_dir": folder, "env_vars": thread_limits(1)}
        try:
            ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise UserError(f"no Ray cluster can be used at {address} ({_first_line(e)}); {_START}") from None


def _address_of_auto() -> str:
    """What Ray takes for `auto`; '' when that is not known, so that Ray looks for it."""
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray/ray_current_cluster"  # noqa: S108  (Ray's own place, only read)
    return os.environ.get("RAY_ADDRESS") or (noted.read_text().strip() if noted.is_file() else "")


def _check_machines(ray: ModuleType, folder: Path, seen: Sequence[Path], memory: float) -> None:
    """Ask every machine what it sees and has. Raises: UserError."""
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1 and n["Resources"].get("memory", 0) >= memory]
    if not nodes:
        raise UserError(f"no machine of the Ray cluster has a core and {memory / 1e9:.1f} GB of memory for a task; start it with more")
    mark, text = folder / f".{uuid.uuid4().hex}.probe", uuid.uuid4().hex
    write_bytes(mark, text.encode())
    try:
        own = versions()
        answers = []
        for node in nodes:
            place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(probe).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
            answers.append((f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", task.remote(mark, text, seen)))
        troubles = []
        for name, reference in answers:
            try:
                troubles += judge(name, ray.get(reference, timeout=_PROBE_S), own, folder)
            except ray.exceptions.RayError as e:
                troubles.append(
                    f"{name} of the Ray cluster cannot run tasks ({_first_line(e)}); install the packages there, or stop Ray there"
                )
    finally:
        mark.unlink(missing_ok=True)
    if troubles:
        raise UserError(listed(troubles, 3))
    say(f"Ray: {len(nodes)} machines, {sum(n['Resources']['CPU'] for n in nodes):.0f} cores")


def _run(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on; None: not installed."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def probe(mark: Path, text: str, seen: Sequence[Path]) -> dict[str, Any]:
    """What this machine has and sees. mark: a file that holds `text`; seen: others that must be there."""
    try:
        shared = mark.read_text() == text
    except OSError:
        shared = False
    try:
        with tempfile.TemporaryFile(dir=mark.parent):
            writable = True
    except OSError:
        writable = False
    return {"shared": shared, "writable": writable, "unseen": [str(p) for p in seen if not p.is_file()], "versions": versions()}


def judge(name: str, found: dict[str, Any], own: dict[str, str | None], folder: Path) -> list[str]:
    """Sentences about what is wrong with the machine `name`, from its probe. own: versions here."""
    if not found["shared"]:
        return [f"{name} does not see {folder}; put the datasets on storage that all machines of the cluster see under the same path"]
    if not found["writable"]:
        return [f"{name} may not write into {folder}; allow it there"]
    if found["unseen"]:
        return [f"{name} does not see {listed(found['unseen'], 3)}; put the videos on storage that all machines see under the same path"]
    if other := [f"{p} {found['versions'][p] or 'missing'} instead of {own[p]}" for p in own if found["versions"][p] != own[p]]:
        return [f"{name} has {', '.join(other)}; install the same there, or its results would be others"]
    return []


def _first_line(error: BaseException) -> str:
    error = getattr(error, "cause", None) or error  # what a task raised, without Ray's own text around it
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
