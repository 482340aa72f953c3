"""From a video of a talking person to a video of that head synthesised from motion it was not trained on, in one command.

On any system with Python 3.10 or newer; it needs nothing else. `python scripts/quickstart.py --help` explains it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where Python is too old)

from util.installation import ROOT, TRACKER, InstallationError, call, make_environment, planned_interpreter

USAGE = """\
usage: bash scripts/quickstart.sh [VIDEO.mp4] [options]          (macOS, Windows: python scripts/quickstart.py ...)

Installs what is missing into .venv, then runs detect -> landmarks -> reconstruct -> train -> self-reenactment on VIDEO
(a person who talks and moves the head; half a minute or more) or, without a video, on the built-in demo clip.
Before training it says what the video shows of the person, and what to film for a better likeness.
With a CUDA GPU it trains the default recipe to its end; without one, a small preview: 15 minutes in all on 2 cores.
Run it again to go on from where it stopped.

  --minutes M     end training after M minutes                 (default: no limit with a GPU; without, what is left of 15)
  --preset P      default or preview                           (default: by the machine)
  --seconds S     use only the first S seconds of the video    (default: all with a GPU; 60 without)
  --mirror M      where to get the ICT face model from: a folder, an archive or an address
                  (default: its official address; without it, the embedded face model is used)
  --consent TEXT  who agreed, and how, that the head in the video is learned and driven; kept with the person, and shown with every
                  result                                       (default: asked where there is a terminal, else "not stated")
  --certificate F, --key F   PEM files that seal the videos    (default: a certificate that is made here)
  -h, --help      this text

You need the consent of the person in the video. Every video written is marked and signed as synthetic; scripts/verify.py reads that.
"""
DATASET = "quickstart"
DEMO_CONSENT = "portrait of Eileen Collins by NASA, public domain"
QUESTION = """\
Does the person in the video agree that the head is learned and driven? Say in a line who agreed and how ("it is me", "signed form of
3 May"). It is kept with the person, and shown with every result. Enter alone: not stated, or as stated before.
> """
PREVIEW_S, REST_S, LEAST_MIN = 15 * 60, 2 * 60, 4  # in all without a GPU; of that for the test and the video; to be worth looking at


class Refused(Exception):
    """What the user asked for cannot be done: the message, and the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass
class Options:
    video: Path | None = None
    minutes: str = ""
    preset: str = ""
    seconds: str = ""
    mirror: str = ""
    consent: str = ""
    certificate: str = ""
    key: str = ""


def parse(argv: Sequence[str]) -> Options | None:
    """The options, checked as far as that is possible before anything is installed; None: the user asks for help.

    Raises: Refused.
    """
    options, waiting = Options(mirror=os.environ.get("HEAD2HEAD_MIRROR", "")), list(argv)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        if argument in ("-h", "--help"):
            return None
        if name in ("--minutes", "--preset", "--seconds", "--mirror", "--consent", "--certificate", "--key"):
            if not equals and not waiting:
                raise Refused(f"{name} needs a value; see --help", 2)
            setattr(options, name[2:], value if equals else waiting.pop(0))
        elif argument.startswith("-") and not Path(argument).is_file():
            raise Refused(f"unknown option {argument}; see --help", 2)
        elif options.video:
            raise Refused("one video at a time; see --help", 2)
        else:
            options.video = Path(argument)
    for number in (options.minutes, options.seconds):
        if number and not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", number):
            raise Refused(f"'{number}' is not a number of minutes or seconds; see --help", 2)
    if options.preset not in ("", "default", "preview"):
        raise Refused(f"--preset is default or preview, not '{options.preset}'", 2)
    if not re.fullmatch(r"[1-9][0-9]*", os.environ.get("GPUS", "1")):
        raise Refused(f"GPUS={os.environ['GPUS']} is no number of GPUs; use GPUS=2, for instance", 2)
    if options.video:
        if not options.video.is_file():
            raise Refused(f"there is no video file {options.video}", 1)
        options.video = Path(os.path.abspath(options.video))  # noqa: PTH100  (a link keeps its name)
    if bool(options.certificate) != bool(options.key):
        raise Refused("--certificate and --key belong together; see --help", 2)
    for name in ("certificate", "key"):
        if path := getattr(options, name):
            if not Path(path).is_file():
                raise Refused(f"--{name} {path}: there is no such file", 1)
            setattr(options, name, str(Path(path).absolute()))
    if options.mirror and "://" not in options.mirror:
        mirror = Path(options.mirror).expanduser().absolute()
        if not mirror.exists():
            raise Refused(f"--mirror {options.mirror}: there is no such file or folder", 1)
        options.mirror = str(mirror)
    return options


class Chain:
    """All steps from the video to the result, each a process of .venv's Python. The first that fails ends the chain with its exit code."""

    def __init__(self, python: Path, start: float):
        self._python, self._start = python, start

    def step(self, title: str) -> None:
        print(f"\n== {title} (minute {self.seconds() // 60:.0f})", flush=True)

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def succeeds(self, *command: str | Path, env: dict[str, str] | None = None) -> bool:
        return call([self._python, *command], env=env)[0] == 0

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> None:
        code, _ = call([self._python, *command], env=env)
        if code:
            sys.exit(code)

    def read(self, *command: str | Path) -> str:
        code, out = call([self._python, *command], capture=True)
        if code:
            sys.exit(code)
        return os.fsdecode(out.splitlines()[0])


def run_chain(options: Options, chain: Chain) -> None:
    gpu = chain.succeeds("-c", "import sys, torch; sys.exit(not torch.cuda.is_available())")
    preset = options.preset or ("default" if gpu else "preview")
    seconds = options.seconds or ("0" if gpu else "60")  # 0: all

    if options.certificate:  # tried now, not when all else is done; the steps take it from the environment
        os.environ |= {"HEAD2HEAD_CERTIFICATE": options.certificate, "HEAD2HEAD_KEY": options.key}
        chain.run("-c", "from util.cli import run; from util.credentials.sealing import find_sealer; run(lambda _: find_sealer() and 0)")

    chain.step("Face model")
    if options.mirror:
        chain.run("scripts/download_files.py", "--mirror", options.mirror)
    elif not chain.succeeds("scripts/download_files.py"):
        print("The ICT face model could not be had: going on with the embedded one.", flush=True)

    if options.video is None:
        chain.step("Built-in demo clip")
        name, video = "demo", ROOT / "datasets" / DATASET / "original_videos" / "demo.mp4"
        if not video.is_file():
            chain.run("scripts/make_demo_video.py", "--output", video)
    else:
        video = options.video
        name = chain.read("scripts/find_identity.py", "--dataset_name", DATASET, "--video", video)

    consent = options.consent or ("" if options.video else DEMO_CONSENT)
    of_person = ("--dataset_name", DATASET, "--name", name)
    chain.step("Face detection")
    detection = ["--original_videos_path", video, "--split", "train", "--max_seconds", seconds]
    chain.run("preprocessing/detect.py", *of_person, *detection, *(("--consent", consent) if consent else ()))
    chain.step("Landmarks")
    chain.run("preprocessing/detect_landmarks70.py", *of_person)
    chain.step("3D reconstruction")
    chain.run("preprocessing/reconstruct.py", *of_person)

    chain.step(f"Training ({preset})")
    minutes = options.minutes
    if not minutes and not gpu:
        minutes = str(max(LEAST_MIN, int(PREVIEW_S - REST_S - chain.seconds()) // 60))
    person = ("--dataset_name", DATASET, "--target_id", name)
    training = ["train.py", *person, "--name", f"head2head_{name}", "--preset", preset, *(("--max_minutes", minutes) if minutes else ())]
    environment = dict(os.environ)
    if (gpus := os.environ.get("GPUS", "1")) != "1":
        training = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", gpus, *training]
        environment.setdefault("OMP_NUM_THREADS", "4")  # of each process
    chain.run(*training, env=environment)

    chain.step("Self-reenactment of the frames kept back")
    chain.run("test.py", *person)
    result = ROOT / "results" / DATASET / f"head2head_{name}" / "latest_epoch" / "test" / name
    chain.run("scripts/images_to_video.py", "--output_mode", "all", "--results_dir", result)
    chain.step("Done")
    print(f"video:  {result / 'all.mp4'}\nreport: {result / 'index.html'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Raises: Refused, InstallationError, SystemExit with the exit code of a step that fails."""
    start = time.monotonic()
    options = parse(sys.argv[1:] if argv is None else argv)
    if options is None:
        print(USAGE, end="")
        return
    if options.video and not options.consent and sys.stdin and sys.stdin.isatty() and sys.stdout.isatty():
        options.consent = input(QUESTION).strip() or "not stated"  # now, not when nobody looks any more
    interpreter = planned_interpreter()
    if not interpreter.has_tracker():
        raise Refused(f"the face tracker {TRACKER} has no package for {interpreter}; README.md says which systems it has one for", 1)
    run_chain(options, Chain(make_environment(), start))


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is written with escapes, not an error
        stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except (Refused, InstallationError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(getattr(e, "code", 1))
    except KeyboardInterrupt:
        sys.exit(130)
