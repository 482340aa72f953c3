"""A trained person, driven live: by a camera, a video or an address, into a window, a file, a virtual camera, or a page.

    python demo.py checkpoints/D/head2head_ann                                    camera 0, in a window
    python demo.py ann --dataset_name D --source driver.mp4 --output ann.mp4      a video, as fast as it goes, with its sound
    python demo.py ann --dataset_name D --source 1 --virtual_camera               for video calls
    python demo.py --web                                                          a page in the browser

The run's folder is enough. A window opens where there is a display. Every picture is marked as synthetic.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parent)
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from live.engine import MODES, HeadEngine, Settings
from live.outputs import VirtualCamera, Window
from live.show import KEYS, Show, recorder_for
from live.sources import open_source
from live.view import View
from live.web.options import add_web_options, web_options
from options.signing_options import add_signing_options, use_certificate
from util.cli import UserError, add_flag, listed, run, say
from util.identities import find_identity
from util.layout import Dataset, Run, check_name, root


def build_parser() -> argparse.ArgumentParser:
    keys = "\n".join(f"  {key}   {what}" for key, what in KEYS.items())
    p = argparse.ArgumentParser(
        prog="demo.py",
        description=__doc__,
        epilog=f"keys in the window:\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("target", nargs="?", metavar="RUN_OR_TARGET", help="a run's folder; or a person, of the dataset --dataset_name")
    p.add_argument("--dataset_name", metavar="D", help="dataset of the person: the run is checkpoints/D/head2head_T")
    p.add_argument("--target_id", "--target_name", metavar="T", help="the person (instead of RUN_OR_TARGET; or which one of a run of many)")
    p.add_argument("--name", metavar="RUN", help="run: checkpoints/D/RUN (default: head2head_<T>)")
    p.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets)")
    p.add_argument("--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs (default: checkpoints)")

    driver = p.add_argument_group("the driver")
    driver.add_argument(
        "--source", default="0", metavar="S", help="a camera's number, a video file, or an address (rtsp://, http://) (default: 0)"
    )
    add_flag(driver, "mirror", False, "flip the driver's picture, as a mirror does")
    driver.add_argument(
        "--as_fast_as_possible",
        action="store_true",
        default=None,
        help="every frame of a file, without waiting (default: for a file that is only written to --output)",
    )
    driver.add_argument("--no_as_fast_as_possible", dest="as_fast_as_possible", action="store_false", help=argparse.SUPPRESS)
    add_flag(driver, "loop", False, "begin a file again at its end")

    how = p.add_argument_group("what is drawn")
    how.add_argument("--mode", choices=MODES, default="head", help="head: pose and expression of the driver; face: expression alone")
    how.add_argument("--exaggerate", type=float, default=1.0, metavar="X", help="stronger or weaker expressions (default: 1)")
    add_flag(how, "refine", True, "correct the fit by the driver's skin: a steadier and truer pose for some 5 ms a frame")
    add_flag(how, "limit_mouth", False, "the mouth opens hardly further than in the target's frames")
    add_flag(how, "paste_back", False, "the head in the target's full original frames")
    how.add_argument("--target_video", type=Path, metavar="FILE", help="the target's original video (default: as the dataset says)")
    add_flag(how, "side_by_side", False, "the driver beside the person")
    add_flag(how, "overlay", False, "show rate, delay and state")
    how.add_argument("--backend", default="auto", help="what runs the generator: auto, cuda, openvino, onnx, torch (default: auto)")
    how.add_argument("--gpu_ids", "--gpu_id", default="auto", metavar="N", help="GPU to use: auto, -1 (CPU), 0, 1, ...")

    out = p.add_argument_group("where it goes")
    out.add_argument("--window", action="store_true", default=None, help="show a window (default: where there is a display)")
    out.add_argument("--no_window", dest="window", action="store_false", help=argparse.SUPPRESS)
    out.add_argument("--output", type=Path, metavar="FILE", help="write an .mp4, with the sound of the driver's video")
    out.add_argument(
        "--virtual_camera",
        nargs="?",
        const="",
        metavar="DEVICE",
        help="a camera for other programs: the first one that is there, or this one (needs pyvirtualcam)",
    )
    out.add_argument("--recordings", type=Path, default=Path(), metavar="DIR", help="folder for what key r records (default: here)")
    add_signing_options(out)
    out.add_argument("--web", action="store_true", help="a page in the browser, instead of all other outputs")
    add_web_options(p.add_argument_group("the page (--web)"))
    return p


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line. Raises: UserError."""
    o = build_parser().parse_args(argv)
    use_certificate(o)
    if o.web:
        return o
    check_name("--target_id", o.target_id)
    check_name("--name", o.name)
    if not 0 < o.exaggerate <= 10:
        raise UserError(f"--exaggerate {o.exaggerate:g} must be above 0, and 10 at most")
    if o.output and o.output.suffix.lower() != ".mp4":
        raise UserError(f"cannot write {o.output}: give the video a name that ends in .mp4")
    if o.window is False and not o.output and o.virtual_camera is None:
        raise UserError("nothing would be shown: give --output FILE, --virtual_camera or --web, or leave out --no_window")
    return o


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    if o.web:
        serve_page(o)
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with whole files
    folder, name = find_run(o)
    fast = o.as_fast_as_possible
    with ExitStack() as stack:
        window = open_window(o)
        if window:
            stack.callback(window.close)
        if fast is None:  # what nobody watches need not wait
            fast = Path(o.source).is_file() and window is None and o.virtual_camera is None and not o.loop
        source = stack.enter_context(open_source(o.source, as_fast_as_possible=fast, loop=o.loop))
        outputs = [VirtualCamera(source.fps, o.virtual_camera or None)] if o.virtual_camera is not None else []
        outputs += [recorder_for(source, o.output)] if o.output else []
        settings = Settings(o.mode, o.mirror, o.paste_back, o.exaggerate, o.limit_mouth, o.refine)
        video = o.target_video or (original_video(o, folder, name) if o.paste_back else None)
        engine = HeadEngine.load(folder, name=name, backend=o.backend, gpu_ids=o.gpu_ids, settings=settings, video=video)
        stack.enter_context(engine)
        say(f"{engine.profile.name}, {engine.size}x{engine.size} pixels; {engine.backend}")
        say(f"driver: {source.name}, {source.size[0]}x{source.size[1]}, {float(source.fps):.4g} frames/s")
        if window:
            window.title = f"{engine.profile.name} - Head2Head"
            say("keys in the window: " + ", ".join(f"{key} {what}" for key, what in KEYS.items()))
        elif not fast:
            say("Ctrl-C ends it")
        Show(engine, source, View(o.side_by_side, o.overlay), outputs, window, o.recordings).run()


def find_run(o: argparse.Namespace) -> tuple[Path, str | None]:
    """The run's folder, and the person in it (None: the only one). Raises: UserError when there is no such run."""
    if o.target and not o.dataset_name and Path(o.target).is_dir():
        return Path(o.target), o.target_id
    if o.target and o.target_id:
        raise UserError(f"the person is named twice, {o.target} and --target_id {o.target_id}; name the person once")
    target = o.target or o.target_id
    known = sorted(os.path.relpath(p.parent) for p in (o.checkpoints_dir or root() / "checkpoints").glob("*/*/profiles"))
    there_are = f"trained runs: {listed(known)}" if known else "no person is trained yet: bash scripts/quickstart.sh does it"
    if not o.dataset_name:
        what = f"'{target}' is no folder" if target else "say whom to drive"
        raise UserError(f"{what}; give a run's folder, as checkpoints/D/head2head_T, or T --dataset_name D; {there_are}")
    if not (target or o.name):
        raise UserError(f"say who of {o.dataset_name} is driven: T --dataset_name {o.dataset_name}, or --name RUN; {there_are}")
    target = find_identity(Dataset.open(o.dataset_name, o.datasets_dir), target, o.checkpoints_dir)
    folder = Run.open(o.dataset_name, o.name or f"head2head_{target}", o.checkpoints_dir).checkpoints
    if not folder.is_dir():
        raise UserError(f"there is no run {folder}; {there_are}")
    return folder, target if len(list((folder / "profiles").glob("*.npz"))) > 1 else None


def open_window(o: argparse.Namespace) -> Window | None:
    """The window if it is asked for, or where there is a display. Raises: UserError when there is none, and nothing else would show."""
    if o.window is False:
        return None
    try:
        return Window("Head2Head: one moment ...", tuple(KEYS.items()))
    except UserError:
        if o.window or not (o.output or o.virtual_camera is not None):
            raise
        return None


def original_video(o: argparse.Namespace, folder: Path, name: str | None) -> Path:
    """The target's original video, as the dataset recorded it. Raises: UserError when it is not known or gone."""
    name = name or Run(folder, folder).profile_path().stem
    dataset = Dataset.open(o.dataset_name or folder.resolve().parent.name, o.datasets_dir)
    record = dataset.read_record(name)
    if record is None or not record.sources:
        raise UserError(f"--paste_back needs the video that '{name}' was learnt from, which no dataset names; give it: --target_video FILE")
    if video := dataset.find_video(record.sources[0]):
        return video
    raise UserError(f"{dataset.lost_video(name, record.sources[0])}, or name it: --target_video FILE")


def serve_page(o: argparse.Namespace) -> None:
    """--web. Raises: UserError."""
    from live.web.server import serve

    places = {"checkpoints_dir": o.checkpoints_dir, "datasets_dir": o.datasets_dir}
    serve(web_options(o, backend=o.backend, gpu_ids=o.gpu_ids, **places))


if __name__ == "__main__":
    run(main)
