"""The terms of the generator's and the discriminators' losses; models.objective computes them by name."""

from __future__ import annotations

import contextlib
import http.client
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread

import torch
from torch import Tensor, nn

from models.checkpoints import check_keys, read_tensors
from util.cli import UserError, warn
from util.downloads import fetch
from util.hashing import sha256_of

Features = list[list[Tensor]]  # of models.networks.MultiscaleDiscriminator: per scale all feature maps, the prediction last


def lsgan(outputs: Features, is_real: bool) -> Tensor:
    """Least-squares GAN loss (Mao et al. 2017): mean squared distance of the predictions to 1 (real) or 0, summed over the scales."""
    target = 1.0 if is_real else 0.0
    return torch.stack([(scale[-1].float() - target).square().mean() for scale in outputs]).sum()


class _MeanDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, target):
        difference = x - target  # rounded to the maps' own type, which changes no sign
        ctx.save_for_backward(difference)
        return difference.abs().sum(dtype=torch.float32) / difference.numel()

    @staticmethod
    def backward(ctx, grad):
        (difference,) = ctx.saved_tensors
        return difference.sign() * (grad / difference.numel()), None


def mean_difference(x: Tensor, target: Tensor) -> Tensor:
    """F.l1_loss(x.float(), target.float()), without gradient for target, and without the float32 copies of large bfloat16 feature maps.

    On a GPU those moved four times as many bytes; the gradient is the same, the value up to the rounding of the differences.
    """
    return _MeanDifference.apply(x, target)


def feature_matching(fake: Features, real: Features) -> Tensor:
    """L1 between the discriminator's features of fake and real (pix2pixHD, Wang et al. 2018).

    Summed over the feature maps with 4 / (n_layers + 1) each (their number is n_layers + 1), mean over the scales.
    """
    terms = [
        mean_difference(f, r.detach()) * (4 / (len(fake_scale) - 1))
        for fake_scale, real_scale in zip(fake, real)
        for f, r in zip(fake_scale[:-1], real_scale[:-1])
    ]
    return torch.stack(terms).sum() / len(fake)


def gradient_loss(fake: Tensor, real: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, to the right and below, of [..., 3, H, W] (after Mathieu et al. 2016).

    Where an outline's place is uncertain, a mixture of dark and bright dots costs no more L1 than either alone; here it costs most.
    """
    error = fake - real
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def warp_loss(fake: Tensor, warped_previous: Tensor, trust: Tensor) -> Tensor:
    """L1 between frames and their predecessors warped onto them, [..., 3, H, W], where trust [..., 1, H, W] is 1; mean over all pixels."""
    return ((fake - warped_previous).abs() * trust).mean()


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the losses, each times its weight of the same name."""
    return torch.stack([losses[name] * weights[name] for name in losses]).sum()


class VGGLoss(nn.Module):
    """L1 between VGG19 features (Simonyan & Zisserman 2014, ImageNet weights) of two batches of images.

    Layers relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 with weights 1/32, 1/16, 1/8, 1/4, 1.
    """

    TAPS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}  # index in torchvision's vgg19().features -> weight

    def __init__(self, weights: Path):
        """weights: torchvision's vgg19 state dict. Raises: UserError when the file holds something else."""
        super().__init__()
        from torchvision.models import vgg19

        with torch.device("meta"):  # nothing is allocated: the classifier alone would take half a gigabyte
            self.layers = vgg19(weights=None).features[: max(self.TAPS) + 1]
        state = read_tensors(weights)
        state = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")} if isinstance(state, dict) else {}
        state = {k: v for k, v in state.items() if int(k.split(".")[0]) <= max(self.TAPS)}
        check_keys(self.layers, {k: v.shape for k, v in state.items()}, str(weights), "VGG19")
        self.layers.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """images: [N, 3, H, W] RGB in -1..1. Returns the five feature maps."""
        x = ((images + 1) / 2 - self.mean) / self.std
        taps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.TAPS:
                taps.append(x)
        return taps

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            real_features = self.features(real)
        terms = [mean_difference(f, r) * w for f, r, w in zip(self.features(fake), real_features, self.TAPS.values())]
        return torch.stack(terms).sum()


VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"  # torchvision's; the name holds the start of its SHA-256
_VGG19_SHA256 = "dcbb9e9d"
_TIMEOUT_S = 10.0  # a training on a machine without network waits no longer before it goes on without the weights


def load_vgg(weights: Path | None = None) -> VGGLoss | None:
    """The VGG19 loss; None, with a warning, when its weights cannot be found or downloaded.

    weights: torchvision's vgg19 state dict; None: as find_vgg_weights finds it. Raises: UserError when the file holds something else.
    """
    path = weights or find_vgg_weights()
    if path is None:
        warn(f"training without the VGG loss: its weights cannot be downloaded ({VGG19_URL}); --vgg_weights FILE takes a local copy")
        return None
    return VGGLoss(path)


def find_vgg_weights() -> Path | None:
    """torchvision's VGG19 weights: from its cache, else downloaded into it (550 MB); None when they cannot be downloaded."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG19_URL).name
    if cached.is_file():
        return cached
    if not _answers(VGG19_URL):
        return None
    try:
        fetch(VGG19_URL, cached)
    except UserError:
        return None
    if not sha256_of(cached).startswith(_VGG19_SHA256):
        cached.unlink()
        return None
    return cached


def _answers(url: str) -> bool:
    """Whether the address can be opened within the time-out, the name's look-up included (that has no time-out of its own)."""
    answer = Event()

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(url, timeout=_TIMEOUT_S):  # noqa: S310
            answer.set()

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_TIMEOUT_S)
    return answer.is_set()
