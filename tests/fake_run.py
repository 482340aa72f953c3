"""A tiny generator with random weights, saved as a trained run, and the commands that use it."""

import importlib.util
import sys
from pathlib import Path

import torch
from fake_dataset import FACE_MODEL

from models.checkpoints import PUBLISHED_OPTIONS, save_weights, write_run_options
from models.networks import build_generator
from util.layout import Run

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
OPTIONS = {**PUBLISHED_OPTIONS, "loadSize": SIZE, "ngf": 4, "n_downsample_G": 2, "n_blocks": 2, "face_model": FACE_MODEL, "lr": 2e-4}


def make_run(root, name="Ann", seed=0, dataset="fake", **changes):
    """Write checkpoints/<dataset>/head2head_<name>; returns (run, generator, options)."""
    run = Run.open(dataset, f"head2head_{name}", root / "checkpoints", root / "results")
    options = {**OPTIONS, **changes}
    torch.manual_seed(seed)
    generator = build_generator(options)
    for parameter in generator.parameters():
        parameter.data *= 4  # so that the pictures have contrast
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    write_run_options(run, options)
    save_weights(generator, run.network_path("G"))
    return run, generator.eval(), options


def load_command(path):
    """Import a command file that no package holds (test.py would be taken for the standard library's `test`)."""
    spec = importlib.util.spec_from_file_location("command_" + Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before  # a command puts the repository in the place of its own folder, here that of the tests
    return module


def run_test(root, *arguments):
    """test.py in this process, on the CPU in PyTorch unless told otherwise, with all folders below `root`."""
    places = ["--datasets_dir", str(root), "--checkpoints_dir", str(root / "checkpoints"), "--results_dir", str(root / "results")]
    return load_command("test.py").main(["--dataset_name", "fake", "--gpu_ids", "-1", "--backend", "torch", *places, *arguments])
