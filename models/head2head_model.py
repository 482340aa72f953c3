"""Generator, discriminators and optimisers of one training run, and its training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import temporal
from models.flow import trusted
from models.losses import VGGLoss, feature_matching, lsgan, warp_loss, weighted_sum
from models.networks import MultiscaleDiscriminator, build_generator, conditioning_channels
from models.networks.generator import PREVIOUS_FRAMES
from models.ops import resample2d
from models.roi import crop
from util.flow_cache import STEPS

FLOW_SCALE = 20.0  # the temporal discriminators see flow in pixels divided by this
BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class ModelOptions:
    """What defines the networks and the losses (the defaults are the published recipe's)."""

    ngf: int = 64
    n_downsample_G: int = 3
    n_blocks: int = 9
    prev_output: bool = True  # the generator sees its last two frames
    eye_gaze: bool = True  # the generator sees the eye gaze image
    ndf: int = 64
    num_D: int = 2
    n_layers_D: int = 3
    mouth_D: bool = True
    use_eyes_D: bool = False
    n_scales_temporal: int = 3
    roi_px: int = 72  # side of the mouth's and the eyes' windows, in pixels of the images
    lambda_feat: float = 10.0
    lambda_vgg: float = 10.0
    lambda_warp: float = 10.0
    lambda_L1: float = 0.0
    lr: float = 2e-4
    max_frames_per_gpu: int = 4  # frames of a chunk


@dataclass
class Clip:
    """A batch of windows of the videos, on the device; T consecutive frames each."""

    real: Tensor  # [B, T, 3, H, W] RGB in -1..1
    conditioning: Tensor  # [B, T + 2, C, H, W] NMFC (and eye gaze) in 0..1, two frames before the first one first
    corners: dict[str, Tensor]  # 'mouth', 'eyes' -> int64 [B, T, 2], left and top of the window
    flows: dict[int, Tensor]  # step s -> [B, T - s, 2, h, w] in pixels of the images; entry i warps frame i onto frame i + s

    @property
    def length(self) -> int:
        return self.real.shape[1]


@dataclass
class _Pair:
    """What one discriminator compares."""

    label: str  # of the discriminator
    real: Tensor  # [N, C, H, W]
    fake: Tensor


class Head2HeadModel(nn.Module):
    """All networks of a run. `train_clip` does the work; `optimizers` and `networks` are what a checkpoint holds."""

    def __init__(self, options: ModelOptions, device: torch.device, dtype: torch.dtype = torch.float32, vgg: VGGLoss | None = None):
        """dtype: of the networks' arithmetic (bfloat16: autocast); weights are float32 in any case."""
        super().__init__()
        self.options = o = options
        self.device = device
        self.dtype = dtype
        image_nc = conditioning_channels(o.eye_gaze) + 3
        triplet_nc = temporal.TRIPLET * 3 + (temporal.TRIPLET - 1) * 2
        inputs = {"D": image_nc}
        if o.mouth_D:
            inputs["Dm"] = image_nc
        if o.use_eyes_D:
            inputs["De"] = image_nc
        inputs |= {f"D_T{i}": triplet_nc for i in range(o.n_scales_temporal)}
        self.G = build_generator(vars(o))
        self.discriminators = nn.ModuleDict(
            {label: MultiscaleDiscriminator(nc, o.ndf, o.n_layers_D, o.num_D) for label, nc in inputs.items()}
        )
        self.vgg = vgg
        # channels-last: what convolutions of cuDNN and oneDNN work in
        self.to(device, memory_format=torch.channels_last)
        self.optimizers = {
            "G": torch.optim.Adam(self.G.parameters(), o.lr, BETAS, fused=True),
            "D": torch.optim.Adam(self.discriminators.parameters(), o.lr, BETAS, fused=True),
        }
        self.weights = {"G_warp": o.lambda_warp, "G_VGG": o.lambda_vgg}
        for label in inputs:
            self.weights |= {f"G_GAN_{label}": 1.0, f"G_feat_{label}": o.lambda_feat, f"G_L1_{label}": o.lambda_L1}
            self.weights |= {f"{label}_real": 0.5, f"{label}_fake": 0.5}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network by the label of its file: G, D, Dm, De, D_T0..2."""
        return {"G": self.G, **self.discriminators}

    def set_lr(self, lr: float) -> None:
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def autocast(self) -> torch.autocast:
        """The arithmetic of the networks; everything around them is float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def load_optimizers(self, states: dict[str, Any]) -> None:
        """Load the optimisers' state dicts, by name, into the weights' memory layout."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(states[name])
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = torch.empty_like(parameter).copy_(value)

    def to_clip(self, batch: dict[str, Any], corners: dict[str, Tensor]) -> Clip:
        """Bring a batch of the data loader (data.video_dataset) to the device. corners: as in Clip, on the CPU."""

        def move(x: Tensor) -> Tensor:
            return x.to(self.device, non_blocking=True)

        conditioning = [batch["nmfc"], batch["gaze"]] if self.options.eye_gaze else [batch["nmfc"]]
        return Clip(
            real=move(batch["image"]),
            conditioning=torch.cat([move(x) for x in conditioning], dim=2),
            corners={k: move(v) for k, v in corners.items()},
            flows={s: move(f) for s, f in batch.get("flows", {}).items()},
        )

    def train_clip(self, clip: Clip) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Train on a clip chunk by chunk.

        The generated frames are carried from chunk to chunk; no gradient flows back through an earlier generated frame.
        Yields, after each chunk's step: its losses by name (detached, on the device: reading them waits for it), and the
        chunk's generated frames [B, n, 3, H, W] in -1..1.
        """
        history = clip.real[:, :0]  # the last generated frames
        for start, stop in temporal.chunks(clip.length, self.options.max_frames_per_gpu):
            losses, fake = self.step(clip, start, stop, history)
            history = torch.cat([history, fake], dim=1)[:, -temporal.HISTORY :]
            yield losses, fake

    def step(self, clip: Clip, start: int, stop: int, history: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One optimisation step of all networks on frames [start, stop) of a clip.

        history: [B, <= 18, 3, H, W] generated frames before `start`. Returns: losses by name, generated frames (both detached).
        """
        fake = self.generate(temporal.conditioning_windows(clip.conditioning[:, start : stop + 2]), history)
        # Every loss hangs on this leaf, so one pass of the discriminators over it serves both sides: generator_loss is
        # differentiated by the frames alone, discriminator_loss by the discriminators' weights alone.
        frames = fake.detach().requires_grad_()
        for_generator, for_discriminators = self.losses(clip, start, stop, frames, history)
        generator_loss = weighted_sum(for_generator, self.weights)
        discriminator_loss = weighted_sum(for_discriminators, self.weights)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        (gradient,) = torch.autograd.grad(generator_loss, frames, retain_graph=True)
        fake.backward(gradient)
        discriminator_loss.backward(inputs=list(self.discriminators.parameters()))
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {k: v.detach() for k, v in {**for_generator, **for_discriminators}.items()}, fake.detach()

    def generate(self, A: Tensor, history: Tensor) -> Tensor:
        """Generate consecutive frames.

        A: [B, n, 3 C, H, W]. history: [B, any, 3, H, W] generated frames before them; zeros stand for frames that are not there.
        Returns: [B, n, 3, H, W] float32.
        """
        b, n = A.shape[:2]
        with self.autocast():
            if not self.options.prev_output:  # the frames are independent: all at once
                return self.G(_channels_last(A.flatten(0, 1))).float().unflatten(0, (b, n))
            frames = [history[:, i] for i in range(history.shape[1])][-PREVIOUS_FRAMES:]
            blank = A.new_zeros(b, 3, *A.shape[-2:])
            frames = [blank] * (PREVIOUS_FRAMES - len(frames)) + frames
            for t in range(n):
                P = torch.cat([f.detach() for f in frames[-PREVIOUS_FRAMES:]], dim=1)
                frames.append(self.G(_channels_last(A[:, t]), _channels_last(P)).float())
        return torch.stack(frames[PREVIOUS_FRAMES:], dim=1)

    def losses(self, clip: Clip, start: int, stop: int, fake: Tensor, history: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All losses on frames [start, stop): the generator's and the discriminators', by name."""
        real = clip.real[:, start:stop]
        for_generator: dict[str, Tensor] = {}
        for_discriminators: dict[str, Tensor] = {}
        for pair in (*self.frame_pairs(clip, start, stop, fake), *self.triplet_pairs(clip, start, stop, fake, history)):
            network = self.discriminators[pair.label]
            with self.autocast():
                of_real, of_fake = network(_channels_last(pair.real)), network(_channels_last(pair.fake))
            for_generator[f"G_GAN_{pair.label}"] = lsgan(of_fake, True)
            for_generator[f"G_feat_{pair.label}"] = feature_matching(of_fake, of_real)
            for_discriminators[f"{pair.label}_real"] = lsgan(of_real, True)
            for_discriminators[f"{pair.label}_fake"] = lsgan(of_fake, False)
            if self.options.lambda_L1 and not pair.label.startswith("D_T"):  # the frame, and again its mouth and its eyes
                for_generator[f"G_L1_{pair.label}"] = F.l1_loss(pair.fake[:, -3:], pair.real[:, -3:])
        if self.vgg is not None:
            with self.autocast():
                for_generator["G_VGG"] = self.vgg(fake.flatten(0, 1), real.flatten(0, 1))
        if self.options.lambda_warp and stop > 1:
            for_generator["G_warp"] = self.warp_loss(clip, start, stop, fake, history)
        return for_generator, for_discriminators

    def frame_pairs(self, clip: Clip, start: int, stop: int, fake: Tensor) -> Iterator[_Pair]:
        """Single frames with their conditioning images: the whole frame, the mouth, the eyes."""
        conditioning = clip.conditioning[:, start + 2 : stop + 2].flatten(0, 1)
        real = torch.cat([conditioning, clip.real[:, start:stop].flatten(0, 1)], dim=1)
        fake = torch.cat([conditioning, fake.flatten(0, 1)], dim=1)
        yield _Pair("D", real, fake)
        for label, region in (("Dm", "mouth"), ("De", "eyes")):
            if label in self.discriminators:
                corner = clip.corners[region][:, start:stop].flatten(0, 1)
                yield _Pair(label, *(crop(x, corner, self.options.roi_px) for x in (real, fake)))

    def triplet_pairs(self, clip: Clip, start: int, stop: int, fake: Tensor, history: Tensor) -> Iterator[_Pair]:
        """Three frames at distance 1, 3, 9 that end in [start, stop), with the flow between them; scales with too few frames have none."""
        generated = torch.cat([history, fake], dim=1)
        for scale, step in enumerate(STEPS[: self.options.n_scales_temporal]):
            ends = temporal.triplet_ends(start, stop, step)
            if not len(ends):
                continue
            flows = temporal.triplet_flows(clip.flows[step], ends, step)
            flows = temporal.upsample_flow(flows, clip.real.shape[-2:]) / FLOW_SCALE
            real = temporal.triplets(clip.real, ends, step)
            false = temporal.triplets(generated, ends, step, first=start - history.shape[1])
            yield _Pair(f"D_T{scale}", *(torch.cat([x, flows], dim=2).flatten(0, 1) for x in (real, false)))

    def warp_loss(self, clip: Clip, start: int, stop: int, fake: Tensor, history: Tensor) -> Tensor:
        """Each frame but the clip's first against the one before it, warped by the reference flow where that is trusted."""
        first = max(start, 1)
        flow = temporal.upsample_flow(clip.flows[1][:, first - 1 : stop - 1], clip.real.shape[-2:]).flatten(0, 1)
        previous = torch.cat([history[:, -1:], fake], dim=1)[:, :-1].detach()[:, -(stop - first) :].flatten(0, 1)
        real = clip.real[:, first:stop].flatten(0, 1)
        trust = trusted(real, resample2d(clip.real[:, first - 1 : stop - 1].flatten(0, 1), flow))
        return warp_loss(fake[:, -(stop - first) :].flatten(0, 1), resample2d(previous, flow), trust)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
