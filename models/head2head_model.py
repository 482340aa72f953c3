"""Generator, discriminators and optimisers of one training run, and its training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import temporal
from models.cuda_graphs import GraphedFunction
from models.flow import trusted
from models.losses import VGGLoss, feature_matching, gradient_loss, lsgan, warp_loss, weighted_sum
from models.networks import MultiscaleDiscriminator, build_generator, conditioning_channels, emphasise_detail
from models.networks.generator import PREVIOUS_FRAMES
from models.ops import resample2d
from models.roi import crop
from util.caches.flow import STEPS
from util.distributed import Processes

FLOW_SCALE = 20.0  # the temporal discriminators see flow in pixels divided by this
BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class ModelOptions:
    """What defines the networks and the losses (the defaults are the published recipe's)."""

    ngf: int = 64
    n_downsample_G: int = 3
    n_blocks: int = 9
    margin: int = 0  # pixels beyond the picture that the generator works on
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
    lambda_gradient: float = 0.0
    lr: float = 2e-4
    max_frames_per_gpu: int = 4  # frames of a chunk
    detail_init: bool = False  # discriminators that start with an eye for detail (models.networks.emphasise_detail)
    ema: float = 0.0  # decay of the moving average of the generator's weights, per step; 0: none


@dataclass
class Clip:
    """A batch of windows of the videos, on the device; T consecutive frames each, as bytes until they are needed."""

    real: Tensor  # uint8 [B, T, H, W, 3] RGB
    conditioning: Tensor  # uint8 [B, T + 2, H, W, C] NMFC (and eye gaze), two frames before the first one first
    corners: dict[str, Tensor]  # 'mouth', 'eyes' -> int64 [B, T, 2], left and top of the window
    flows: dict[int, Tensor]  # step s -> [B, T - s, 2, h, w] in pixels of the images; entry i warps frame i onto frame i + s

    @property
    def length(self) -> int:
        return self.real.shape[1]

    def chunk(self, start: int, stop: int, history: Tensor) -> Chunk:
        """Frames [start, stop) with what their losses look back at.

        history: [B, h, 3, H, W] the h <= start generated frames before `start`.
        """
        first = start - history.shape[1]
        return Chunk(
            real=self.real[:, first:stop],
            conditioning=self.conditioning[:, start : stop + 2],
            corners={k: v[:, start:stop] for k, v in self.corners.items()},
            flows={s: f[:, first : max(first, stop - s)] for s, f in self.flows.items()},
            history=history,
        )


@dataclass
class Chunk:
    """n frames to train on, after h frames of history (h + n = W). All that a step reads, with shapes that depend on h and n alone."""

    real: Tensor  # uint8 [B, W, H, W', 3]
    conditioning: Tensor  # uint8 [B, n + 2, H, W', C]
    corners: dict[str, Tensor]  # [B, n, 2]
    flows: dict[int, Tensor]  # step s -> [B, max(W - s, 0), 2, h, w]
    history: Tensor  # float32 [B, h, 3, H, W'] generated frames in -1..1

    def tensors(self) -> list[Tensor]:
        return [self.real, self.conditioning, self.history, *self.corners.values(), *self.flows.values()]


@dataclass
class _Pair:
    """What one discriminator compares."""

    label: str  # of the discriminator
    real: Tensor  # [N, C, H, W]
    fake: Tensor


class Head2HeadModel(nn.Module):
    """All networks of a run. `train_clip` does the work; `optimizers` and `networks` are what a checkpoint holds."""

    def __init__(
        self,
        options: ModelOptions,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        vgg: VGGLoss | None = None,
        graphs: bool = True,
        processes: Processes | None = None,
    ):
        """dtype: of the networks' arithmetic (bfloat16: autocast); weights are float32 in any case.

        processes: the other processes that train the same model (None: there are none).
        graphs: on a GPU, record the work of a step once per shape and replay it, which saves launching thousands of small kernels.
        """
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
        if o.detail_init:
            for label, network in self.discriminators.items():
                emphasise_detail(network, slice(0, 3 * temporal.TRIPLET) if label.startswith("D_T") else slice(image_nc - 3, image_nc))
        self.vgg = vgg
        # channels-last: what convolutions of cuDNN and oneDNN work in
        self.to(device, memory_format=torch.channels_last)
        self.optimizers = {
            "G": torch.optim.Adam(self.G.parameters(), o.lr, BETAS, fused=True),
            "D": torch.optim.Adam(self.discriminators.parameters(), o.lr, BETAS, fused=True),
        }
        self.processes = processes or Processes()
        self.flat_gradients: dict[str, Tensor] = {}  # of each network in one piece
        self.gradients: dict[str, list[Tensor]] = {}  # the same, in the weights' shapes and layouts
        for label, network in self.networks.items():
            sizes = [p.numel() for p in network.parameters()]
            self.flat_gradients[label] = flat = torch.zeros(sum(sizes), device=device)
            self.gradients[label] = [x.as_strided(p.shape, p.stride()) for x, p in zip(flat.split(sizes), network.parameters())]
        self.average: MovingAverage | None = None
        self.restart_average()
        self.compute_gradients: Callable[[Chunk], tuple[dict[str, Tensor], Tensor]] = self.differentiate
        if graphs and device.type == "cuda":
            self.compute_gradients = GraphedFunction(self.differentiate)
        self.weights = {"G_warp": o.lambda_warp, "G_VGG": o.lambda_vgg}
        for label in inputs:
            self.weights |= {f"G_GAN_{label}": 1.0, f"G_feat_{label}": o.lambda_feat, f"G_L1_{label}": o.lambda_L1}
            self.weights[f"G_gradient_{label}"] = o.lambda_gradient
            self.weights |= {f"{label}_real": 0.5, f"{label}_fake": 0.5}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network by the label of its file: G, D, Dm, De, D_T0..2."""
        return {"G": self.G, **self.discriminators}

    def copy_from_first(self) -> None:
        """Take the first process's weights."""
        for tensor in (*self.state_dict().values(), *(self.average.network.state_dict().values() if self.average else ())):
            self.processes.copy_from_first(tensor)

    def restart_average(self) -> None:
        """Begin the moving average with the generator as it is now."""
        self.average = MovingAverage(self.G, self.options.ema) if self.options.ema else None

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
        """Bring a batch of the data loader (data.clips) to the device. corners: as in Clip, on the CPU."""

        def move(x: Tensor) -> Tensor:
            return x.to(self.device, non_blocking=True)

        conditioning = [batch["nmfc"], batch["gaze"]] if self.options.eye_gaze else [batch["nmfc"]]
        return Clip(
            real=move(batch["image"]),
            conditioning=torch.cat([move(x) for x in conditioning], dim=-1),
            corners={k: move(v) for k, v in corners.items()},
            flows={s: move(f) for s, f in batch.get("flows", {}).items()},
        )

    def train_clip(self, clip: Clip) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Train on a clip chunk by chunk.

        The generated frames are carried from chunk to chunk; no gradient flows back through an earlier generated frame.
        Yields, after each chunk's step: its losses by name (detached, on the device: reading them waits for it), and the
        chunk's generated frames [B, n, 3, H, W] in -1..1.
        """
        b, _, height, width, _ = clip.real.shape
        history = torch.zeros(b, 0, 3, height, width, device=self.device)  # the last generated frames
        for start, stop in temporal.chunks(clip.length, self.options.max_frames_per_gpu):
            losses, fake = self.step(clip.chunk(start, stop, history))
            history = torch.cat([history, fake], dim=1)[:, -temporal.HISTORY :]
            yield losses, fake

    def step(self, chunk: Chunk) -> tuple[dict[str, Tensor], Tensor]:
        """One optimisation step of all networks on a chunk. Returns: losses by name, generated frames (both detached)."""
        losses, fake = self.compute_gradients(chunk)
        trained = {label for label in self.networks if label == "G" or f"{label}_real" in losses}
        if self.processes.size > 1:
            values = torch.stack(list(losses.values()))
            for tensor in (values, *(self.flat_gradients[label] for label in self.networks if label in trained)):
                self.processes.average(tensor)
            losses = dict(zip(losses, values.unbind()))
        self.update(trained)
        return losses, fake

    def differentiate(self, chunk: Chunk) -> tuple[dict[str, Tensor], Tensor]:
        """Set the gradients of all networks' weights for a chunk (`gradients`). Returns as `step` does."""
        torch._foreach_zero_(list(self.flat_gradients.values()))
        for label, network in self.networks.items():
            for parameter, gradient in zip(network.parameters(), self.gradients[label]):
                parameter.grad = gradient
        n = chunk.conditioning.shape[1] - 2
        real = to_rgb(chunk.real)
        conditioning = chunk.conditioning.movedim(-1, 2).float() / 255
        fake = self.generate(temporal.conditioning_windows(conditioning), chunk.history)
        # Every loss hangs on this leaf, so one pass of the discriminators over it serves both sides: generator_loss is
        # differentiated by the frames alone, discriminator_loss by the discriminators' weights alone.
        frames = fake.detach().requires_grad_()
        for_generator, for_discriminators = self.losses(chunk, real, conditioning[:, -n:], frames)
        generator_loss = weighted_sum(for_generator, self.weights)
        discriminator_loss = weighted_sum(for_discriminators, self.weights)
        (gradient,) = torch.autograd.grad(generator_loss, frames, retain_graph=True)
        fake.backward(gradient)
        discriminator_loss.backward(inputs=list(self.discriminators.parameters()))
        return {k: v.detach() for k, v in {**for_generator, **for_discriminators}.items()}, fake.detach()

    def update(self, labels: set[str]) -> None:
        """One step of the optimisers, and of the moving average; networks not in `labels` stay as they are, moments included."""
        for label, network in self.networks.items():
            for parameter, gradient in zip(network.parameters(), self.gradients[label]):
                parameter.grad = gradient if label in labels else None
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.average is not None:
            self.average.update(self.G)

    def generate(self, A: Tensor, history: Tensor) -> Tensor:
        """Generate consecutive frames.

        A: [B, n, 3 C, H, W]. history: [B, any, 3, H, W] generated frames before them; zeros stand for frames that are not there.
        Returns: [B, n, 3, H, W] float32.
        """
        b, n = A.shape[:2]
        with self.autocast():
            features = self.G.encode(_channels_last(A.flatten(0, 1)))
            if not self.options.prev_output:  # the frames are independent: all at once
                return self.G.decode(features).float().unflatten(0, (b, n))
            features = features.unflatten(0, (b, n))
            frames = [history[:, i] for i in range(history.shape[1])][-PREVIOUS_FRAMES:]
            blank = A.new_zeros(b, 3, *A.shape[-2:])
            frames = [blank] * (PREVIOUS_FRAMES - len(frames)) + frames
            for t in range(n):
                P = torch.cat([f.detach() for f in frames[-PREVIOUS_FRAMES:]], dim=1)
                frames.append(self.G.decode(_channels_last(features[:, t]), _channels_last(P)).float())
        return torch.stack(frames[PREVIOUS_FRAMES:], dim=1)

    def losses(self, chunk: Chunk, real: Tensor, conditioning: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All losses on a chunk: the generator's and the discriminators', by name.

        real: [B, h + n, 3, H, W] in -1..1. conditioning: [B, n, C, H, W] in 0..1. fake: [B, n, 3, H, W].
        """
        for_generator: dict[str, Tensor] = {}
        for_discriminators: dict[str, Tensor] = {}
        n = fake.shape[1]
        frames = self.frame_pairs(chunk.corners, real[:, -n:], conditioning, fake)
        for pair in (*frames, *self.triplet_pairs(chunk, real, fake)):
            network = self.discriminators[pair.label]
            with self.autocast():
                of_real, of_fake = network(_channels_last(pair.real)), network(_channels_last(pair.fake))
            for_generator[f"G_GAN_{pair.label}"] = lsgan(of_fake, True)
            for_generator[f"G_feat_{pair.label}"] = feature_matching(of_fake, of_real)
            for_discriminators[f"{pair.label}_real"] = lsgan(of_real, True)
            for_discriminators[f"{pair.label}_fake"] = lsgan(of_fake, False)
            if not pair.label.startswith("D_T"):  # the frame, and again its mouth and its eyes
                shown, truth = pair.fake[:, -3:], pair.real[:, -3:]
                if self.options.lambda_L1:
                    for_generator[f"G_L1_{pair.label}"] = F.l1_loss(shown, truth)
                if self.options.lambda_gradient:
                    for_generator[f"G_gradient_{pair.label}"] = gradient_loss(shown, truth)
        if self.vgg is not None:
            with self.autocast():
                for_generator["G_VGG"] = self.vgg(fake.flatten(0, 1), real[:, -n:].flatten(0, 1))
        if self.options.lambda_warp and real.shape[1] > 1:
            for_generator["G_warp"] = self.warp_loss(chunk, real, fake)
        return for_generator, for_discriminators

    def frame_pairs(self, corners: dict[str, Tensor], real: Tensor, conditioning: Tensor, fake: Tensor) -> Iterator[_Pair]:
        """Single frames with their conditioning images: the whole frame, the mouth, the eyes. All [B, n, ...]."""
        real, fake = (torch.cat([conditioning, x], dim=2).flatten(0, 1) for x in (real, fake))
        yield _Pair("D", real, fake)
        for label, region in (("Dm", "mouth"), ("De", "eyes")):
            if label in self.discriminators:
                corner = corners[region].flatten(0, 1)
                yield _Pair(label, *(crop(x, corner, self.options.roi_px) for x in (real, fake)))

    def triplet_pairs(self, chunk: Chunk, real: Tensor, fake: Tensor) -> Iterator[_Pair]:
        """Three frames at distance 1, 3, 9 that end in the chunk, with the flow between them; scales with too few frames have none."""
        generated = torch.cat([chunk.history, fake], dim=1)
        before, total = chunk.history.shape[1], real.shape[1]
        for scale, step in enumerate(STEPS[: self.options.n_scales_temporal]):
            ends = temporal.triplet_ends(before, total, step)
            if not len(ends):
                continue
            flows = temporal.triplet_flows(chunk.flows[step], ends, step)
            flows = temporal.upsample_flow(flows, real.shape[-2:]) / FLOW_SCALE
            pair = (torch.cat([temporal.triplets(x, ends, step), flows], dim=2).flatten(0, 1) for x in (real, generated))
            yield _Pair(f"D_T{scale}", *pair)

    def warp_loss(self, chunk: Chunk, real: Tensor, fake: Tensor) -> Tensor:
        """Each frame but the clip's first against the one before it, warped by the reference flow where that is trusted."""
        before, total = chunk.history.shape[1], real.shape[1]
        first = max(before, 1)
        flow = temporal.upsample_flow(chunk.flows[1][:, first - 1 :], real.shape[-2:]).flatten(0, 1)
        generated = torch.cat([chunk.history, fake.detach()], dim=1)
        trust = trusted(real[:, first:].flatten(0, 1), resample2d(real[:, first - 1 : total - 1].flatten(0, 1), flow))
        warped = resample2d(generated[:, first - 1 : total - 1].flatten(0, 1), flow)
        return warp_loss(fake[:, first - before :].flatten(0, 1), warped, trust)


class MovingAverage:
    """Exponential moving average of a generator's weights; early on it follows closely (decay min(decay, (1 + n) / (10 + n)) at update n).

    The average makes better and steadier pictures than the last weights (Yazici et al. 2019), so it is what a checkpoint's G holds.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False)

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)


def to_rgb(images: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in -1..1."""
    return images.movedim(-1, -3).float() / 127.5 - 1


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
