"""Options of train.py: the presets' values, --set, the older flags, and what --help shows."""

import json
from dataclasses import asdict, fields

import pytest

from options.presets import PRESETS, SETTINGS, Recipe, parse_setting
from options.train_options import ARCHITECTURE, UNCRITICAL, TrainOptions, build_parser, parse
from util.cli import UserError

# All values of the published recipe, as train.py had them before its settings moved to presets.
LITERAL = {
    "dataset_name": "D", "target_id": None, "name": None, "datasets_dir": None, "checkpoints_dir": None, "gpu_ids": "auto",
    "precision": "fp32", "which_epoch": "latest", "preset": "literal", "max_minutes": None, "loadSize": 256, "batch_size": 1,
    "augment": True, "move_heads": 0.0, "change_expressions": 0.0, "flow": "auto", "faceflow": True, "flownet2_checkpoint": None, "seed": 0,
    "cuda_graphs": False, "ngf": 64, "n_downsample_G": 3, "n_blocks": 9, "margin": 0, "prev_output": True, "eye_gaze": True,
    "appearance": False, "conditioning_frames": 3, "half": False, "ndf": 64,
    "num_D": 2, "n_layers_D": 3, "mouth_D": True, "use_eyes_D": False, "ROI_size": 72, "n_scales_temporal": 3,
    "lambda_feat": 10.0, "lambda_vgg": 10.0, "vgg": True, "vgg_weights": None, "lambda_warp": 10.0, "lambda_L1": 0.0,
    "lambda_gradient": 0.0, "lr": 0.0002, "niter": 40, "niter_decay": 20, "niter_step": 5, "epoch_frames": 0, "n_frames_total": 12,
    "max_frames_per_gpu": 4, "ema": 0.0, "continue_train": False, "load_pretrain": None, "save_latest_freq": 100,
    "save_epoch_freq": 100, "tensorboard": True,
}  # fmt: skip
PUBLISHED = LITERAL | {
    "preset": "published", "precision": "auto", "batch_size": 0, "augment": False, "move_heads": 0.7, "cuda_graphs": True, "margin": 16,
    "use_eyes_D": True, "lambda_L1": 50.0, "lambda_gradient": 50.0, "niter": 100, "niter_decay": 50, "niter_step": 8,
    "epoch_frames": 650, "ema": 0.999,
}  # fmt: skip
DEFAULT = PUBLISHED | {
    "preset": "default", "margin": 0, "change_expressions": 0.6, "ngf": 24, "n_blocks": 6, "prev_output": False, "appearance": True,
    "conditioning_frames": 1, "half": True, "ndf": 32,
    "n_scales_temporal": 0, "lambda_warp": 0.0, "vgg": False, "lr": 0.0004, "n_frames_total": 4, "niter": 1600,
    "niter_decay": 800, "niter_step": 100000, "save_latest_freq": 5000, "save_epoch_freq": 800,
}  # fmt: skip
PREVIEW = LITERAL | {
    "preset": "preview", "precision": "auto", "max_minutes": 6.0, "loadSize": 128, "augment": False, "move_heads": 0.5,
    "cuda_graphs": True, "ngf": 16, "n_blocks": 6, "prev_output": False, "ndf": 8, "num_D": 1, "use_eyes_D": True,
    "n_scales_temporal": 0, "vgg": False, "lambda_warp": 0.0, "change_expressions": 0.6, "appearance": True,
    "conditioning_frames": 1, "lambda_L1": 200.0, "lambda_gradient": 150.0, "lr": 0.001,
    "niter": 40000, "niter_decay": 20000, "niter_step": 100000, "n_frames_total": 2, "ema": 0.99,
}  # fmt: skip


def options(*words):
    return parse(["--dataset_name", "D", *words])


@pytest.mark.parametrize("values", [DEFAULT, PUBLISHED, LITERAL, PREVIEW], ids=lambda v: v["preset"])
def test_presets_resolve_to_these_values(values):
    found = options("--preset", values["preset"]).as_dict()
    assert found == values | {"keep_checkpoints": 3}
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in values.items()} | {"keep_checkpoints": int}
    json.dumps(found)


def test_presets_change_defaults_and_options_win():
    default, literal, preview = (options("--preset", p) for p in ("default", "literal", "preview"))
    assert options() == default
    assert (literal.loadSize, literal.ngf, literal.niter, literal.niter_decay, literal.niter_step) == (256, 64, 40, 20, 5)
    assert (literal.lr, literal.n_frames_total, literal.max_frames_per_gpu, literal.ROI_size) == (2e-4, 12, 4, 72)
    assert (literal.batch_size, literal.precision, literal.ema, literal.augment) == (1, "fp32", 0, True)
    assert (literal.lambda_L1, literal.lambda_gradient, literal.move_heads) == (0, 0, 0)
    published = options("--preset", "published")
    assert (published.loadSize, published.ngf, published.lr) == (literal.loadSize, literal.ngf, literal.lr)
    assert default.loadSize == published.loadSize and default.ngf < published.ngf
    assert preview.loadSize < default.loadSize and preview.ngf < default.ngf
    chosen = options("--preset", "preview", "--loadSize", "64", "--prev_output", "--no_eye_gaze")
    assert chosen.loadSize == 64 and chosen.prev_output and not chosen.eye_gaze and chosen.ngf == preview.ngf


def test_presets_hold_known_settings_in_range():
    for values in PRESETS.values():
        for name, value in values.items():
            assert parse_setting(name, str(value), "") == value and type(value) is type(parse_setting(name, str(value), ""))
    assert all(f.metadata["text"] for f in fields(Recipe))
    names = {f.name for f in fields(TrainOptions)}
    assert UNCRITICAL <= names and set(ARCHITECTURE) <= names - UNCRITICAL


def test_set_changes_any_setting():
    o = options("--set", "ngf=32", "lr=1e-3", "--preset", "preview", "--set", "vgg=on", "flow=dis", "max_minutes=none", "vgg_weights=none")
    assert (o.ngf, o.lr, o.vgg, o.flow, o.max_minutes, o.vgg_weights) == (32, 1e-3, True, "dis", None, None)
    assert o.n_blocks == PREVIEW["n_blocks"]
    for word, value in (("no", False), ("0", False), ("Off", False), ("TRUE", True), ("1", True)):
        assert options("--set", f"augment={word}").augment is value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "lamda_feat=3"], "no setting 'lamda_feat'; did you mean lambda_feat?"),
        (["--set", "NGF=3"], "did you mean ngf?"),
        (["--set", "xyzzy=3"], "no setting 'xyzzy'; train.py --list_settings prints"),
        (["--set", "dataset_name=E"], "no setting 'dataset_name'"),
        (["--set", "ngf"], "--set ngf is not of the form NAME=VALUE"),
        (["--set", "ngf=4.5"], "--set ngf=4.5 must be a whole number"),
        (["--set", "ngf="], "--set ngf= must be a whole number"),
        (["--set", "lr=fast"], "--set lr=fast must be a number"),
        (["--set", "lr=nan"], "--set lr=nan must be a number"),
        (["--set", "vgg=maybe"], "--set vgg=maybe must be true or false"),
        (["--set", "ngf=none"], "must be a whole number"),
        (["--set", "ngf=0"], "--set ngf=0 must be 1 to 1024"),
        (["--set", "lr=0"], "must be above 0"),
        (["--set", "n_scales_temporal=4"], "must be 0 to 3"),
        (["--set", "flow=fast"], "--set flow=fast must be one of auto, dis, flownet2"),
        (["--ngf", "wide"], "--ngf wide must be a whole number"),
        (["--batch_size", "-1"], "must be 0 to 1024"),
        (["--move_heads", "1.5"], "--move_heads 1.5 must be 0 to 1"),
        (["--lambda_gradient", "-1"], "must not be negative"),
        (["--ema", "1"], "--ema 1.0 must be at least 0 and below 1"),
        (["--niter", "0", "--niter_decay", "0"], "nothing to train"),
        (["--set", "niter=0", "niter_decay=0"], "nothing to train"),
        (["--max_minutes", "-1"], "must be above 0"),
        (["--vgg_weights", "nowhere.pth"], "no file nowhere.pth"),
        (["--load_pretrain", "nowhere"], "no folder nowhere"),
        (["--which_epoch", "last"], "neither 'latest' nor"),
        (["--ngf", "32", "--set", "ngf=16"], "ngf is 32 as an option and 16 by --set; give it once"),
        (["--set", "ngf=32", "--no_vgg", "--set", "vgg=true"], "vgg is False as an option and True by --set"),
        (["--set", "ngf=32", "--set", "ngf=16"], "ngf is 32 by --set and 16 by --set"),
    ],
)
def test_bad_values(words, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        options(*words)


def test_the_same_value_twice_is_no_conflict_and_the_last_flag_counts():
    assert options("--ngf", "32", "--set", "ngf=32", "ngf=32").ngf == 32
    assert options("--ngf", "32", "--ngf", "16").ngf == 16  # wrappers put the user's options after their own


def test_every_setting_is_an_option_of_its_own_name(tmp_path):
    weights = tmp_path / "vgg.pth"
    weights.touch()
    given = {"loadSize": 64, "margin": 8, "vgg_weights": weights, "flownet2_checkpoint": weights, "precision": "bf16", "flow": "flownet2"}
    for name, f in SETTINGS.items():
        if isinstance(f.default, bool):
            assert getattr(options(f"--{name}"), name) is True and getattr(options(f"--no_{name}"), name) is False
        else:
            value = given.get(name, 0.5 if isinstance(f.default, float) else 2)
            assert getattr(options(f"--{name}", str(value)), name) == value
            assert getattr(options("--set", f"{name}={value}"), name) == value
    old = options("--batchSize", "2", "--no_faceflow", "--use_faceflow", "--gpu_id", "0", "--target_name", "T", "--continue_train")
    assert (old.batch_size, old.faceflow, old.gpu_ids, old.target_id, old.continue_train) == (2, True, "0", "T", True)


def test_numbered_checkpoints_that_were_asked_for_are_all_kept():
    assert options("--save_epoch_freq", "10").keep_checkpoints == options("--set", "save_epoch_freq=10").keep_checkpoints == 0
    assert options("--save_epoch_freq", "10", "--keep_checkpoints", "5").keep_checkpoints == 5
    assert options().keep_checkpoints == 3


def test_help_shows_at_most_twenty_options():
    help = build_parser().format_help()
    shown = [line for line in help.split("options:")[1].splitlines() if line.startswith("  -")]
    assert 10 < len(shown) <= 20
    assert not any(flag in help for flag in ("--n_blocks", "--lambda_L1", "SUPPRESS", "--no_prev_output"))


@pytest.mark.parametrize("words", [["--list_settings"], ["--set", "help"]])
def test_settings_are_printed(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    said = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"\n  {name} = " in said for name in SETTINGS)
    assert "loadSize = 256; preview: 128" in said and "[channels, must be 1 to 1024]" in said


def test_needs_flow():
    assert options("--preset", "published").needs_flow and not options().needs_flow and not options("--preset", "preview").needs_flow
    assert asdict(options())["flow"] == "auto"
