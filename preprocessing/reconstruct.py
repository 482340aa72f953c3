"""Step 3: fit the 3D face model to every frame and draw the NMFC images.

    python preprocessing/reconstruct.py --dataset_name mine

Writes, per frame, misc/ (camera), exp_coeffs/ (expression) and nmfcs/ (image), and id_coeffs/<name>.txt, one identity
vector for all frames of a person in both splits. Also works on frames and landmarks of a dataset that has no dataset.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

# The matrices are small: a second BLAS thread would only wait. Drawing uses all cores by its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS
from preprocessing.steps.reconstruction import choose_model, make_reconstruction
from util.cli import run
from util.identities import find_identity, for_each, identities_with_frames
from util.locks import locked


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_options(p)
    p.add_argument(
        "--face_model",
        choices=("auto", *FACE_MODELS),
        default="auto",
        help="auto: the dataset's, else ict if scripts/download_files.py fetched it, else mesh478 (default: auto)",
    )
    p.add_argument(
        "--renderer",
        choices=("auto", "vulkan", "cpu"),
        default="auto",
        help="renderer of the NMFC images; auto: Vulkan on a GPU, else the CPU; the images are equal (default: auto)",
    )
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = open_dataset(o)
    o.name = find_identity(dataset, o.name)
    everyone = identities_with_frames(dataset, o.name)
    names = everyone if o.name is None else [o.name]
    kind = choose_model(dataset, everyone, names, o.face_model)
    models: dict[str, MorphableModel] = {}

    def reconstruct(name: str) -> None:
        with locked(dataset.lock_path(name), f"'{name}'"):
            make_reconstruction(dataset, name, kind, o.face_model != "auto", o.renderer, models)

    for_each(names, reconstruct)
    return 0


if __name__ == "__main__":
    run(main)
