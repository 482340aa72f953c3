"""Generator, discriminators and optimisers of one training run, and its training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models import temporal
from models.clip import Chunk, Clip, to_rgb
from models.cuda_graphs import GraphedFunction
from models.losses import VGGLoss, weighted_sum
from models.moving_average import MovingAverage
from models.networks import MultiscaleDiscriminator, build_generator, conditioning_channels
from models.networks.generator import PREVIOUS_FRAMES
from models.objective import Objective, channels_last
from util.distributed import Processes

BETAS = (0.5, 0.999)  # of Adam, as in pix2pix (Isola et al. 2017)


@dataclass(frozen=True)
class ModelOptions:
    """What defines the networks and the losses (the defaults are the published recipe's)."""

    ngf: int = 64
    n_downsample_G: int = 3
    n_blocks: int = 9
    margin: int = 0  # pixels beyond the picture that the generator works on
    prev_output: bool = True  # the generator sees its last two frames
    eye_gaze: bool = True  # the networks see the eye gaze image
    appearance: bool = False  # the generator sees the person's colours (util.face.appearance)
    conditioning_frames: int = 3  # frames whose conditioning images the generator sees, the current one last
    half: bool = False  # the generator works on blocks of 2x2 pixels
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
    ema: float = 0.0  # decay of the moving average of the generator's weights, per step; 0: none


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
        self.history_length = temporal.history_length(o.n_scales_temporal, o.lambda_warp > 0, PREVIOUS_FRAMES * o.prev_output)
        self.average: MovingAverage | None = None
        self.restart_average()
        self.compute_gradients: Callable[[Chunk], tuple[dict[str, Tensor], Tensor]] = self.differentiate
        if graphs and device.type == "cuda":
            self.compute_gradients = GraphedFunction(self.differentiate)
        names = ("roi_px", "n_scales_temporal", "lambda_feat", "lambda_vgg", "lambda_warp", "lambda_L1", "lambda_gradient")
        self.losses = Objective(self.discriminators, vgg, self.autocast, **{name: getattr(o, name) for name in names})

    @property
    def conditioning_images(self) -> list[str]:
        """The images that make up a clip's conditioning, by their names in a batch. The discriminators do not see the last, appearance."""
        return ["nmfc", *["gaze"] * self.options.eye_gaze, *["appearance"] * self.options.appearance]

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

    def to_clip(self, batch: dict[str, Any]) -> Clip:
        """The clip of a batch (data.clip_stream) that is on the device already."""
        conditioning = torch.cat([batch[name] for name in self.conditioning_images], dim=-1)
        return Clip(batch["image"], conditioning, batch["corners"], batch.get("flows", {}))

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
            history = torch.cat([history, fake], dim=1)
            history = history[:, max(0, history.shape[1] - self.history_length) :]
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
        n = chunk.length
        real = to_rgb(chunk.real)
        conditioning = chunk.conditioning.movedim(-1, 2).float() / 255
        fake = self.generate(self.generator_input(conditioning, n), chunk.history)
        # Every loss hangs on this leaf, so one pass of the discriminators over it serves both sides: generator_loss is
        # differentiated by the frames alone, discriminator_loss by the discriminators' weights alone.
        frames = fake.detach().requires_grad_()
        shown = conditioning[:, -n:, : conditioning_channels(self.options.eye_gaze)]
        for_generator, for_discriminators = self.losses(chunk, real, shown, frames)
        generator_loss = weighted_sum(for_generator, self.losses.weights)
        discriminator_loss = weighted_sum(for_discriminators, self.losses.weights)
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

    def generator_input(self, conditioning: Tensor, n: int) -> Tensor:
        """What the generator sees of the conditioning images of n frames and those before, [B, n + context, C, H, W] in 0..1.

        Returns: [B, n, input_nc, H, W].
        """
        o = self.options
        return temporal.conditioning_windows(conditioning, n, o.conditioning_frames, conditioning_channels(o.eye_gaze))

    def generate(self, A: Tensor, history: Tensor) -> Tensor:
        """Generate consecutive frames.

        A: [B, n, input_nc, H, W] (`generator_input`).
        history: [B, any, 3, H, W] generated frames before them; zeros stand for frames that are not there.
        Returns: [B, n, 3, H, W] float32.
        """
        b, n = A.shape[:2]
        with self.autocast():
            features = self.G.encode(channels_last(A.flatten(0, 1)))
            if not self.options.prev_output:  # the frames are independent: all at once
                return self.G.decode(features).float().unflatten(0, (b, n))
            features = features.unflatten(0, (b, n))
            frames = [history[:, i] for i in range(history.shape[1])][-PREVIOUS_FRAMES:]
            blank = A.new_zeros(b, 3, *A.shape[-2:])
            frames = [blank] * (PREVIOUS_FRAMES - len(frames)) + frames
            for t in range(n):
                P = torch.cat([f.detach() for f in frames[-PREVIOUS_FRAMES:]], dim=1)
                frames.append(self.G.decode(channels_last(features[:, t]), channels_last(P)).float())
        return torch.stack(frames[PREVIOUS_FRAMES:], dim=1)
