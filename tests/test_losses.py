"""Losses, windows, time structure, and the training step against a plain restatement of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import temporal
from models.clip import Clip, to_rgb
from models.head2head_model import Head2HeadModel, ModelOptions
from models.losses import VGGLoss, feature_matching, gradient_loss, lsgan, mean_difference, warp_loss, weighted_sum
from models.moving_average import MovingAverage
from models.ops import resample2d
from models.roi import crop
from models.schedule import Schedule
from util.cli import UserError
from util.face.roi import window

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


# -- single terms ----------------------------------------------------------------------------------------------------------


def outputs(*values):
    """What a discriminator returns: per scale, feature maps of which the last is the prediction."""
    return [[torch.full((2, 3, 4, 4), v), torch.full((2, 3, 2, 2), 2 * v), torch.full((2, 1, 2, 2), v)] for v in values]


def test_lsgan_sums_squared_distances_over_scales():
    assert lsgan(outputs(1.0, 0.5), True).item() == pytest.approx(0.25)
    assert lsgan(outputs(1.0, 0.5), False).item() == pytest.approx(1.25)


def test_feature_matching_weights():
    # two scales, feature maps differ by 1 and 2 (the prediction does not count), n_layers = 1: 4 / 2 per layer, mean over the scales
    value = feature_matching(outputs(1.0, 1.0), outputs(0.0, 0.0))
    assert value.item() == pytest.approx((1 + 2) * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_difference_is_the_l1_loss_in_float32(dtype):
    x, y = (torch.randn(2, 16, 20, 30).to(dtype).requires_grad_() for _ in range(2))
    with torch.no_grad():
        x[0, 0] = y[0, 0]  # without a gradient there
    value, want = mean_difference(x, y), F.l1_loss(x.float(), y.float())
    assert value.dtype == torch.float32 and value.item() == pytest.approx(want.item(), rel=1e-6 if dtype == torch.float32 else 1e-4)
    got = torch.autograd.grad(3 * value, x, retain_graph=True)[0]
    torch.testing.assert_close(got, torch.autograd.grad(3 * want, x)[0], rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=0)
    assert torch.autograd.grad(value, y, allow_unused=True)[0] is None


def test_feature_matching_leaves_the_real_side_alone():
    fake, real = torch.rand(1, 2, 3, 3, requires_grad=True), torch.rand(1, 2, 3, 3, requires_grad=True)
    feature_matching([[fake, fake]], [[real, real]]).backward()
    assert fake.grad is not None and real.grad is None


def test_warp_loss_counts_trusted_pixels_only():
    fake, warped = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    trust = torch.zeros(1, 1, 4, 4)
    trust[..., :2] = 1
    assert warp_loss(fake, warped, trust).item() == pytest.approx(0.5)


def test_gradient_loss_dislikes_dots_that_plain_differences_do_not():
    """Where the truth is as often dark as bright, dots differ from it no more than a flat area does, in the mean; their gradients do."""
    dark, bright = -torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    dots = torch.where((torch.arange(8)[:, None] + torch.arange(8)) % 2 == 0, 1.0, -1.0).expand(1, 3, 8, 8)

    def mean(loss, picture):
        return (loss(picture, dark) + loss(picture, bright)).item() / 2

    assert mean(F.l1_loss, dots) == mean(F.l1_loss, dark) == 1
    assert mean(gradient_loss, dark) == 0 and mean(gradient_loss, dots) == pytest.approx(4)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    assert gradient_loss(ramp + 5, 3 * ramp).item() == pytest.approx(2)  # a step of 2 to the right, of 0 below


def test_weighted_sum_needs_a_weight_for_every_loss():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert weighted_sum(losses, {"a": 10, "b": 0.5, "unused": 9}).item() == 21.5
    with pytest.raises(KeyError):
        weighted_sum(losses, {"a": 1})


def test_resample2d_moves_pixels_and_clamps_at_the_border():
    image = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0] = 1  # out(x) = image(x + 1)
    want = torch.cat([image[..., 1:], image[..., -1:]], -1)
    torch.testing.assert_close(resample2d(image, flow), want)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 1] = -0.5
    want = (image + torch.cat([image[..., :1, :], image[..., :-1, :]], -2)) / 2
    torch.testing.assert_close(resample2d(image, flow), want)
    torch.testing.assert_close(resample2d(image, torch.full((1, 2, 4, 5), 1000.0)), torch.full((1, 1, 4, 5), 19.0))


@pytest.mark.parametrize("region", ["mouth", "eyes"])
def test_crop_cuts_the_window_of_each_image(region):
    landmarks = np.random.default_rng(0).uniform(0, 40, (6, 70, 2)).astype(np.float32)
    landmarks[0] -= 100  # outside: the window stays in the image
    landmarks[1] += 100
    corner = window(landmarks, region, 12, 30, 40)
    images = torch.rand(6, 2, 30, 40, requires_grad=True)
    got = crop(images, torch.from_numpy(corner), 12)
    want = torch.stack([image[:, y : y + 12, x : x + 12] for image, (x, y) in zip(images, corner.tolist())])
    assert torch.equal(got, want)
    (gradient,) = torch.autograd.grad(got.sum(), images)
    assert gradient.sum().item() == got.numel() and gradient.max().item() == 1


# -- VGG -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """A file in the layout of torchvision's vgg19 weights, with random values in a tenth of the usual size."""
    from torchvision.models import vgg19

    torch.manual_seed(1)
    with torch.device("meta"):
        features = vgg19(weights=None).features.state_dict()
    state = {f"features.{k}": torch.randn(v.shape) * (0.05 if k.endswith("weight") else 0.1) for k, v in features.items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


def test_vgg_loss(vgg_file):
    loss = VGGLoss(vgg_file)
    fake, real = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    assert loss(real, real).item() == 0
    # written out: relu1_1, 2_1, 3_1, 4_1, 5_1 of ImageNet-normalised images
    w = torch.load(vgg_file, weights_only=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    stages = [(0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28,)]  # convolutions between the poolings
    want, a, b = 0.0, ((fake + 1) / 2 - mean) / std, ((real + 1) / 2 - mean) / std
    for stage, weight in zip(stages, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)):
        for i, conv in enumerate(stage):
            a, b = (F.conv2d(x, w[f"features.{conv}.weight"], w[f"features.{conv}.bias"], padding=1).relu() for x in (a, b))
            if i == 0:
                want += weight * (a - b).abs().mean().item()
        a, b = F.max_pool2d(a, 2), F.max_pool2d(b, 2)
    assert loss(fake, real).item() == pytest.approx(want, rel=1e-4)
    fake.requires_grad_()
    loss(fake, real).backward()
    assert fake.grad.abs().sum() > 0 and all(p.grad is None for p in loss.parameters())


def test_wrong_vgg_file_is_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth does not fit VGG19; missing.*wrong shape"):
        VGGLoss(tmp_path / "x.pth")


# -- time structure --------------------------------------------------------------------------------------------------------


def test_conditioning_windows_are_the_last_three_frames_oldest_first():
    frames = torch.arange(7.0).view(1, 7, 1, 1, 1).expand(2, 7, 6, 2, 2) + torch.arange(6.0).view(6, 1, 1) / 10
    windows = temporal.conditioning_windows(frames, 5)
    assert windows.shape == (2, 5, 18, 2, 2)
    assert windows[0, 0, :, 0, 0].tolist() == pytest.approx([t + c / 10 for t in (0, 1, 2) for c in range(6)])
    assert windows[1, 4, ::6, 0, 0].tolist() == [4, 5, 6]
    assert temporal.conditioning_windows(frames, 5, 1)[1, 4, :, 0, 0].tolist() == pytest.approx([6 + c / 10 for c in range(6)])
    some = temporal.conditioning_windows(frames, 5, 2, channels=4)  # the last two of the frame itself alone
    assert some[0, 0, :, 0, 0].tolist() == pytest.approx([1 + c / 10 for c in range(4)] + [2 + c / 10 for c in range(6)])


def test_chunks_cover_the_clip():
    assert list(temporal.chunks(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(temporal.chunks(3, 4)) == [(0, 3)]


@pytest.mark.parametrize("step", [1, 3, 9])
def test_triplets_and_their_flows(step):
    """Frame t has value t; the flow from frame i to frame i + s has value i."""
    length = 24
    frames = torch.arange(float(length)).view(1, length, 1, 1, 1).expand(1, length, 3, 2, 2)
    flows = torch.arange(float(length - step)).view(1, -1, 1, 1, 1).expand(1, length - step, 2, 2, 2)
    seen = []
    for start, stop in temporal.chunks(length, 4):
        ends = temporal.triplet_ends(start, stop, step)
        if not len(ends):
            continue
        first = max(0, start - temporal.HISTORY)  # what the training step keeps
        got = temporal.triplets(frames[:, first:stop], ends, step, first)
        flow = temporal.triplet_flows(flows, ends, step)
        for i, end in enumerate(ends):
            assert got[0, i, ::3, 0, 0].tolist() == [end - 2 * step, end - step, end]
            assert flow[0, i, ::2, 0, 0].tolist() == [end - 2 * step, end - step]
        seen += ends
    assert seen == list(range(2 * step, length))  # every triplet once


def test_upsampled_flow_keeps_its_unit():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    full = torch.stack([0.5 * x - 1, 0.25 * y])[None, None]  # a linear field survives halving and doubling inside
    half = F.avg_pool2d(full[0], 2)[None].half()
    torch.testing.assert_close(temporal.upsample_flow(half, (8, 8))[..., 1:-1, 1:-1], full[..., 1:-1, 1:-1], atol=1e-2, rtol=0)


def test_schedule_by_epochs_is_the_published_one():
    s = Schedule()
    rates = [s.learning_rate(s.position(e)) for e in range(60)]
    assert rates[:41] == [2e-4] * 41
    np.testing.assert_allclose(rates[40:], 2e-4 * (1 - np.arange(20) / 20))
    lengths = [s.clip_length(s.position(e)) for e in range(16)]
    assert lengths == [12] * 5 + [24] * 5 + [48] * 5 + [96]
    assert s.frames([50, 50, 7]) == 2 * (5 * 12 + 5 * 24 + 5 * 48 + 45 * 50) + 60 * 7
    assert Schedule(niter=7, niter_decay=0).frames([50]) == 5 * 12 + 2 * 24 and Schedule(niter=10**9).clip_length(10**9 - 1) > 10**6


def test_epochs_of_short_videos_are_filled_up():
    s = Schedule(niter=7, niter_decay=0, epoch_frames=650)
    assert s.clips([50] * 8) == 13 and s.clips([50] * 13) == 13 and s.clips([50] * 20) == 20 and s.clips([7]) == 93
    assert s.frames([50] * 8) == 13 * (5 * 12 + 2 * 24)
    assert Schedule().clips([50, 50, 7]) == 3


def test_schedule_by_time_is_complete_when_time_is_over():
    s = Schedule(niter=40, niter_decay=20)
    assert s.position(3, 0.5) == 30 and s.position(45, 0.5) == 45
    assert s.learning_rate(s.position(2, 1.0)) == 0
    assert s.learning_rate(s.position(2, 5 / 6)) == pytest.approx(1e-4)
    assert s.clip_length(s.position(0, 0.25)) == 96


# -- the training step -----------------------------------------------------------------------------------------------------

SIZE, ROI = 32, 20
TINY = ModelOptions(
    ngf=4,
    n_downsample_G=2,
    n_blocks=2,
    ndf=4,
    n_layers_D=2,
    use_eyes_D=True,
    roi_px=ROI,
    lambda_L1=3.0,
    lambda_gradient=2.0,
    max_frames_per_gpu=4,
)


def make_clip(length=22, batch=2, channels=6):
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(5, SIZE - 5, (batch, length, 70, 2)).astype(np.float32)
    real = F.interpolate(torch.randn(batch * length, 3, 8, 8), size=(SIZE, SIZE), mode="bilinear").tanh().unflatten(0, (batch, length))
    real = ((real + 1) * 127.5).byte().movedim(2, -1)
    flows = {s: torch.randn(batch, max(0, length - s), 2, SIZE // 2, SIZE // 2).half() for s in (1, 3, 9)}
    corners = {r: torch.from_numpy(window(landmarks, r, ROI, SIZE, SIZE)) for r in ("mouth", "eyes")}
    return Clip(real, torch.randint(256, (batch, length + 2, SIZE, SIZE, channels), dtype=torch.uint8), corners, flows)


def plain_step(model, clip, start, stop, history):
    """The same losses written out frame by frame, with one graph from the generator to the sum. Returns (generator's, discriminators')."""
    o, B = model.options, clip.real.shape[0]
    images, conditioning = to_rgb(clip.real), clip.conditioning.movedim(-1, 2) / 255

    def up(flow):
        return F.interpolate(flow.float(), size=(SIZE, SIZE), mode="bilinear")

    fakes = [*history.unbind(1)]
    for t in range(start, stop):
        shown = [conditioning[:, t + 2 - k, :6] for k in reversed(range(o.conditioning_frames))]
        A = torch.cat([*shown, conditioning[:, t + 2, 6:]], 1)  # the person's colours, if any, of the frame itself
        zeros = torch.zeros(B, 3, SIZE, SIZE)
        P = torch.cat([fakes[-2] if len(fakes) > 1 else zeros, fakes[-1] if fakes else zeros], 1).detach()
        fakes.append(model.G(A, P))
    offset = start - history.shape[1]
    at = {t: fakes[t - offset] for t in range(offset, stop)}

    pairs = {label: [] for label in model.discriminators}
    warp = []
    for t in range(start, stop):
        cond = conditioning[:, t + 2, :6]
        real, fake = torch.cat([cond, images[:, t]], 1), torch.cat([cond, at[t]], 1)
        pairs["D"].append((real, fake))
        for label, region in (("Dm", "mouth"), ("De", "eyes")):
            cut = [clip.corners[region][b, t].tolist() for b in range(B)]
            pairs[label].append([torch.stack([x[b, :, v : v + ROI, u : u + ROI] for b, (u, v) in enumerate(cut)]) for x in (real, fake)])
        for scale, s in enumerate((1, 3, 9)):
            if t >= 2 * s:
                flow = [up(clip.flows[s][:, t - 2 * s]) / 20, up(clip.flows[s][:, t - s]) / 20]
                pairs[f"D_T{scale}"].append(
                    [torch.cat([x[t - 2 * s], x[t - s], x[t], *flow], 1) for x in (dict(enumerate(images.unbind(1))), at)]
                )
        if t:
            flow = up(clip.flows[1][:, t - 1])
            trust = (images[:, t] - resample2d(images[:, t - 1], flow)).square().sum(1, keepdim=True) < 0.02
            warp.append(((at[t] - resample2d(at[t - 1].detach(), flow)).abs() * trust).mean())
    for_g = o.lambda_warp * sum(warp) / len(warp)
    for label in ("D", "Dm", "De"):
        differences = [(real[:, -3:] - fake[:, -3:]).abs().mean() for real, fake in pairs[label]]
        for_g = for_g + o.lambda_L1 * sum(differences) / len(differences)
        for real, fake in pairs[label]:
            error = real[:, -3:] - fake[:, -3:]
            steps = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[:, :, 1:] - error[:, :, :-1]).abs().mean()
            for_g = for_g + o.lambda_gradient * steps / len(pairs[label])
    for_d = 0.0
    for label, items in pairs.items():
        if not items:
            continue
        D = model.discriminators[label]
        real, fake = torch.cat([i[0] for i in items]), torch.cat([i[1] for i in items])
        on_real, on_fake, on_copy = D(real), D(fake), D(fake.detach())
        for r, f, c in zip(on_real, on_fake, on_copy):
            for_g = for_g + ((f[-1] - 1) ** 2).mean()
            for a, b in zip(f[:-1], r[:-1]):
                for_g = for_g + o.lambda_feat * 4 / (o.n_layers_D + 1) / o.num_D * (a - b.detach()).abs().mean()
            for_d = for_d + 0.5 * (((r[-1] - 1) ** 2).mean() + (c[-1] ** 2).mean())
    return for_g, for_d


@pytest.mark.parametrize(
    ("start", "stop", "changes"),
    [
        (0, 4, {}),
        (4, 8, {}),
        (20, 22, {}),
        (4, 8, {"appearance": True, "conditioning_frames": 1}),
        (0, 4, {"appearance": True}),
        (0, 4, {"conditioning_frames": 2}),
    ],
)
def test_step_takes_the_gradients_of_the_written_out_losses(start, stop, changes):
    model = Head2HeadModel(replace(TINY, **changes), CPU)
    clip = make_clip(channels=3 * len(model.conditioning_images))
    history = torch.rand(2, 22, 3, SIZE, SIZE)[:, max(0, start - temporal.HISTORY) : start] * 2 - 1
    for_g, for_d = plain_step(model, clip, start, stop, history)
    D_parameters = list(model.discriminators.parameters())
    want_g = torch.autograd.grad(for_g, list(model.G.parameters()), retain_graph=True, allow_unused=True)
    want_d = torch.autograd.grad(for_d, D_parameters, allow_unused=True)
    losses, fake = model.step(clip.chunk(start, stop, history))
    names = {label for label, step in (("D_T0", 1), ("D_T1", 3), ("D_T2", 9)) if stop > 2 * step} | {"D", "Dm", "De"}
    wanted = {"G_warp", *(f"G_{k}_{n}" for k in ("L1", "gradient") for n in ("D", "Dm", "De"))} | {
        f"{k}{n}" for n in names for k in ("G_GAN_", "G_feat_")
    }
    assert set(losses) == wanted | {f"{n}_{k}" for n in names for k in ("real", "fake")}
    assert fake.shape == (2, stop - start, 3, SIZE, SIZE) and not fake.requires_grad
    for p, want in zip([*model.G.parameters(), *D_parameters], [*want_g, *want_d]):
        if want is None:  # a bias before a normalisation; or a temporal scale with too few frames, whose moments are not touched either
            assert p.grad is None or not p.grad.any()
        else:
            torch.testing.assert_close(p.grad, want, rtol=1e-3, atol=1e-5)
    assert all((p.grad is None) == (stop < 19) for p in model.discriminators["D_T2"].parameters())
    total = weighted_sum({k: v for k, v in losses.items() if k.startswith("G_")}, model.losses.weights)
    assert total.item() == pytest.approx(for_g.item(), rel=1e-4)


def test_clip_carries_generated_frames_from_chunk_to_chunk():
    model = Head2HeadModel(TINY, CPU)
    model.set_lr(0.0)  # the networks stay as they are, so the whole clip can be generated at once for comparison
    clip = make_clip(length=10)
    frames, losses = [], []
    for loss, fake in model.train_clip(clip):
        frames.append(fake)
        losses.append(loss)
    assert [f.shape[1] for f in frames] == [4, 4, 2]
    with torch.no_grad():
        shown = temporal.conditioning_windows(clip.conditioning.movedim(-1, 2) / 255, 10)
        whole = model.generate(shown, torch.zeros(2, 0, 3, SIZE, SIZE))
    torch.testing.assert_close(torch.cat(frames, 1), whole, atol=1e-5, rtol=0)
    assert "D_T1_real" not in losses[0] and "D_T1_real" in losses[1] and "D_T2_real" not in losses[2]


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({}, 18),
        ({"n_scales_temporal": 1}, 2),
        ({"n_scales_temporal": 0, "prev_output": False}, 1),
        ({"n_scales_temporal": 0, "prev_output": False, "lambda_warp": 0.0}, 0),
    ],
)
def test_no_more_history_is_kept_than_is_looked_at(changes, length):
    clip, results = make_clip(length=14), []
    for kept in (length, temporal.HISTORY):
        torch.manual_seed(0)
        model = Head2HeadModel(replace(TINY, **changes), CPU)
        assert model.history_length == length
        model.history_length = kept
        steps = list(model.train_clip(clip))
        results.append([*(torch.stack(list(losses.values())) for losses, _ in steps), *(fake for _, fake in steps)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_learning_rate_reaches_every_network():
    model = Head2HeadModel(TINY, CPU)
    held = {id(p) for o in model.optimizers.values() for g in o.param_groups for p in g["params"]}
    assert held == {id(p) for n in model.networks.values() for p in n.parameters()}
    before = {k: [p.detach().clone() for p in n.parameters()] for k, n in model.networks.items()}
    model.set_lr(0.0)
    list(model.train_clip(make_clip()))
    assert all(torch.equal(a, b) for k, n in model.networks.items() for a, b in zip(before[k], n.parameters()))
    model.set_lr(1e-3)
    list(model.train_clip(make_clip()))
    assert all(not torch.equal(before[k][0], next(n.parameters())) for k, n in model.networks.items())


def test_variants():
    """Without eyes, mouth, previous frames, gaze, temporal scales, warp: what is off is not there."""
    options = ModelOptions(
        ngf=4, n_downsample_G=2, n_blocks=2, ndf=4, prev_output=False, eye_gaze=False, mouth_D=False, n_scales_temporal=0, lambda_warp=0
    )
    model = Head2HeadModel(options, CPU)
    clip = make_clip(length=6)
    clip = Clip(clip.real, clip.conditioning[..., :3], {}, {})
    results = list(model.train_clip(clip))
    assert set(model.networks) == {"G", "D"} and model.G.model_down_img is None
    assert set(results[0][0]) == {"G_GAN_D", "G_feat_D", "D_real", "D_fake"}
    assert results[1][1].shape == (2, 2, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["nmfc", "gaze"]),
        ({"appearance": True}, ["nmfc", "gaze", "appearance"]),
        ({"appearance": True, "eye_gaze": False}, ["nmfc", "appearance"]),
    ],
)
def test_conditioning_of_a_batch(changes, names):
    model = Head2HeadModel(replace(TINY, **changes), CPU)
    batch = {name: torch.randint(256, (2, 6, SIZE, SIZE, 3), dtype=torch.uint8) for name in ("nmfc", "gaze", "appearance")}
    clip = model.to_clip({**batch, "image": torch.zeros(2, 4, SIZE, SIZE, 3, dtype=torch.uint8), "corners": {}})
    assert model.conditioning_images == names and torch.equal(clip.conditioning, torch.cat([batch[name] for name in names], -1))


def test_bfloat16_autocast_gives_similar_losses():
    clip = make_clip(length=4)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = Head2HeadModel(TINY, CPU, dtype)
        losses, fake = next(iter(model.train_clip(clip)))
        assert fake.dtype == torch.float32 and all(p.dtype == torch.float32 for p in model.parameters())
        results.append(losses)
    for name, value in results[0].items():
        assert results[1][name].item() == pytest.approx(value.item(), rel=0.05, abs=0.02), name


def test_moving_average_follows_the_generator():
    layer = torch.nn.Linear(1, 1)
    average = MovingAverage(layer, 0.9)
    want = layer.weight.item()
    for n in range(200):
        with torch.no_grad():
            layer.weight.fill_(float(n))
        average.update(layer)
        decay = min(0.9, (1 + n) / (10 + n))
        want = decay * want + (1 - decay) * n
        assert average.network.weight.item() == pytest.approx(want, rel=1e-5)
    again = MovingAverage(layer, 0.9)
    again.load_state(average.state())
    assert again.updates == 200 and torch.equal(again.network.weight, average.network.weight)


def test_clip_of_batches_keeps_networks_that_had_no_frames():
    """A temporal scale without triplets keeps its weights, also when its moments would move it on."""
    model = Head2HeadModel(TINY, CPU)
    clip = make_clip(length=22)
    list(model.train_clip(clip))
    before = [p.detach().clone() for p in model.discriminators["D_T2"].parameters()]
    list(model.train_clip(make_clip(length=8)))
    assert all(torch.equal(a, b) for a, b in zip(before, model.discriminators["D_T2"].parameters()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("graphs", [False, True])
def test_gradients_on_the_gpu_are_those_of_the_cpu(graphs, monkeypatch):
    """Above all the generator's: they pass through every layer of every discriminator."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    clip, gpu = make_clip(), torch.device("cuda")
    history = torch.rand(2, 18, 3, SIZE, SIZE) * 2 - 1
    on_cpu = Head2HeadModel(TINY, CPU)
    on_gpu = Head2HeadModel(TINY, gpu, graphs=graphs)
    on_gpu.load_state_dict(on_cpu.state_dict())
    on_cpu.compute_gradients(clip.chunk(18, 22, history))
    there = Clip(*(x.to(gpu) if torch.is_tensor(x) else {k: v.to(gpu) for k, v in x.items()} for x in vars(clip).values()))
    for _ in range(3):  # as it is, recorded, replayed
        on_gpu.compute_gradients(there.chunk(18, 22, history.to(gpu)))
    for label, gradients in on_cpu.gradients.items():
        want, got = (torch.cat([g.flatten().cpu() for g in x]) for x in (gradients, on_gpu.gradients[label]))
        assert (want - got).norm() < 0.02 * want.norm(), label
