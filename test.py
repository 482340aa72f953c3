"""Synthesise a trained person's head: from the person's own held-out frames (self reenactment), or driven by somebody else.

    python test.py --dataset_name D --target_id T                   self reenactment, with measures against the truth
    python test.py --dataset_name D --target_id T --source_id S     S drives T (after preprocessing/reenact.py)
    python test.py ... --paste_back                                 also the head in the target's full original frames

Writes results/<D>/<run>/<epoch>_epoch/test/<T> or <T>_<S>/ (util/results/folder.py). Finished results of the same checkpoint and the
same inputs are kept; all others are made again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parent)
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from data.driving_sequence import DrivingSequence
from options.base_options import check_side, choose_identities
from options.test_options import TestOptions, parse
from util import VERSION
from util.cli import UserError, run, say
from util.credentials.sealing import find_sealer
from util.face.appearance import Appearance
from util.hashing import sha256_of, sha256_of_all
from util.identities import find_identity
from util.layout import Dataset, Run
from util.locks import locked
from util.metrics import MEASURES
from util.paste_back.plan import make_plan
from util.paste_back.writing import write_paste_back
from util.provenance import consent_in_run
from util.report.training_page import training_facts
from util.results.folder import Results
from util.results.origin import seal_frames
from util.results.panels import PanelVideo
from util.results.writing import write_results

_VERSION = 1  # raise it when results must be made anew


def main(argv: Sequence[str] | None = None) -> int | None:
    options = parse(argv)
    dataset = Dataset.open(options.dataset_name, options.datasets_dir)
    options = replace(options, target_id=find_identity(dataset, options.target_id, options.checkpoints_dir))
    if options.source_id and not (options.target_id and dataset.read_pair(options.target_id, options.source_id)):  # no file of motion
        options = replace(options, source_id=find_identity(dataset, options.source_id))
    options = replace(options, target_id=_one_target(options, dataset))
    target, source = options.target_id, options.source_id
    files = Run.open(options.dataset_name, options.run_name, options.checkpoints_dir, options.results_dir)
    checkpoint = files.network_path("G", options.which_epoch)
    from models.checkpoints import generator_remedy, read_run_options

    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}; {generator_remedy(files, options.which_epoch) or _train_first(options)}")
    run_options = read_run_options(files)
    size = options.loadSize or run_options["loadSize"]
    check_side(size, 2 ** run_options["n_downsample_G"])
    sequence = DrivingSequence.open(dataset, target, source, size, options.how_many, run_options["eye_gaze"])
    face_model = _check_face_model(dataset, target, source, run_options, files.checkpoints)
    appearance = Appearance.read(files.appearance_path(target)) if run_options["appearance"] else None

    results = Results(files.test_folder(sequence.sequence.id, options.which_epoch))
    key = {
        "version": _VERSION,
        "checkpoint": sha256_of(checkpoint),
        "inputs": sha256_of_all(sequence.paths(), names=len(sequence.paths()) > 1),
        "size": size,
        "precision": options.precision,
        "backend": options.backend,
    }
    if appearance:
        key["appearance"] = sha256_of(files.appearance_path(target))
    left_out = dataset.bad_frames(target, "test", sequence.numbers) if source is None else []
    if left_out:  # other results than those of datasets without bad frames
        key["left_out"] = left_out
    wanted = {
        "key": key,
        "dataset_name": options.dataset_name,
        "datasets_dir": str(dataset.home.parent.resolve()),
        "target": target,
        "source": source,
        "run": options.run_name,
        "which_epoch": options.which_epoch,
        "face_model": face_model,
        "size": size,
        "frames": [sequence.numbers[0], sequence.numbers[-1]],
        "left_out": left_out,
        "training": training_facts(files, run_options, options.which_epoch),
        **_origin(dataset, target, source, run_options),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if options.paste_back:
        make_plan(wanted, options.datasets_dir, options.audio)  # raises an error before the synthesis if something is missing
    with locked(results.folder.with_name(f".{results.folder.name}.lock"), f"{results.folder}"):
        Work(options, files, run_options, appearance, sequence, dataset, results, wanted).write()
    return None


@dataclass(frozen=True)
class Work:
    """A test that was checked: what is read, and what is written where."""

    options: TestOptions
    files: Run
    run_options: dict[str, Any]
    appearance: Appearance | None
    sequence: DrivingSequence
    dataset: Dataset
    results: Results
    facts: dict[str, Any]  # what complete.json is to say

    def write(self) -> None:
        """Write all that the options ask for and that is not there yet."""
        options, results = self.options, self.results
        there = results.read()
        if there is not None and there["key"] == self.facts["key"]:
            say(f"already complete: {results.folder}")
        else:
            self.synthesise()
        _print_measures(results)
        say(f"frames: {results.folder}")
        if options.paste_back:
            from preprocessing.tracking.person_matte import create_person_mask

            say(f"pasted back: {write_paste_back(results, options.datasets_dir, options.audio, create_person_mask())}")
        if options.report:
            from util.report.result_page import write_report

            say(f"report: {write_report(results, self.files, self.run_options, options.datasets_dir)}")

    def synthesise(self) -> None:
        """Synthesise all frames of the sequence and write them, with the measures if there is a truth; complete or not at all."""
        import torch

        from models.synthesis import load_synthesizer

        options, results, facts = self.options, self.results, dict(self.facts)
        synthesizer = load_synthesizer(
            self.files,
            {**self.run_options, "loadSize": facts["size"]},
            options.which_epoch,
            appearance=self.appearance,
            backend=options.backend,
            gpu_ids=options.gpu_ids,
            precision=options.precision,
        )
        say(f"back end: {synthesizer.reason}")
        find_sealer()  # raises an error before the synthesis if the user's certificate is of no use
        results.begin()
        with PanelVideo(results, facts, options.datasets_dir) if options.report else nullcontext() as video:
            facts["kinds"], facts["frames_per_s"], facts["frames_per_s_written"] = write_results(
                results,
                self.sequence,
                len(self.sequence),
                synthesizer.step,
                on_gpu=synthesizer.on_gpu,
                self_reenactment=options.source_id is None,
                eye_gaze=self.run_options["eye_gaze"],
                left_out=frozenset(facts["left_out"]),
                show=video and video.write,
            )
        facts |= {"device": synthesizer.device, "backend": synthesizer.backend, "precision": synthesizer.precision}
        facts |= {"head2head": VERSION, "torch": torch.__version__}
        seal_frames(results, facts, self.dataset)
        results.finish(facts)


def _origin(dataset: Dataset, target: str, source: str | None, run_options: dict[str, Any]) -> dict[str, Any]:
    """What drives, and what was said of the consent of both people: of the target where it was trained."""
    pair = dataset.read_pair(target, source) if source else None
    kind = pair.driver["kind"] if pair else "identity" if source else "own frames"
    said = {"target": consent_in_run(run_options, target) or dataset.consent(target)}
    if source:
        said["driver"] = dataset.consent(source) if kind == "identity" else pair.driver.get("consent", "")
    return {"driver_kind": kind, "consent": said}


def _train_first(options: TestOptions) -> str:
    return (
        f"train first: ./scripts/train/train_on_target.sh {options.target_id} {options.dataset_name}, or say where the run is now: "
        "--checkpoints_dir, --name"
    )


def _one_target(options: TestOptions, dataset: Dataset) -> str:
    if options.target_id and options.source_id and dataset.read_pair(options.target_id, options.source_id):
        return options.target_id  # a person driven by a run's profile has no frames in the dataset
    names = choose_identities(options, dataset.identities())
    if len(names) > 1:
        raise UserError(f"dataset {options.dataset_name} has several persons ({', '.join(names[:8])}); say which with --target_id")
    return names[0]


def _check_face_model(dataset: Dataset, target: str, source: str | None, run_options: dict[str, Any], checkpoints: Path) -> str | None:
    """The face model of the NMFCs to synthesise from, as text. Raises: UserError when the run was trained on another one's."""
    trained = run_options.get("face_model")
    pair = dataset.read_pair(target, source) if source else None
    if pair and pair.target_is_profile:  # what the dataset says of the target played no part
        now = pair.made_from["face_model"]
        if trained and now != trained["name"]:
            raise UserError(
                f"this run was trained on NMFCs of the face model {_model_name(trained)}, but the profile of {target} that {source} drives "
                f"is of {now}; run preprocessing/reenact.py again with --target_run {checkpoints}"
            )
        return _model_name(trained) if trained else now
    record = dataset.read_record(target)
    now = record.face_model if record else None
    if now and trained and now != trained:
        raise UserError(
            f"this run was trained on NMFCs of the face model {_model_name(trained)}, but {target}'s are now of {_model_name(now)}; "
            f"run preprocessing/reconstruct.py --dataset_name {dataset.home.name} --face_model {trained['name']}, or train anew"
        )
    return _model_name(now or trained) if now or trained else None


def _model_name(face_model: dict[str, str]) -> str:
    return " ".join(str(v) for v in face_model.values())


def _print_measures(results: Results) -> None:
    means, per_frame = results.read_measures()
    if means:
        counted = sum(any(math.isfinite(v) for v in m.values()) for m in per_frame)
        left_out = f" ({len(per_frame) - counted} left out: they do not show the person well)" if counted < len(per_frame) else ""
        say(f"means over {counted} frames{left_out}:")
        for name, value in means.items():
            say(f"  {name:13s} {value:8.3f}   {MEASURES[name].unit}, {MEASURES[name].better} is better")


if __name__ == "__main__":
    run(main)
