"""Measures that need trained networks: LPIPS, FID, FaceNet. Their weights are looked for in PyTorch's cache, never fetched unasked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from util.cli import UserError
from util.downloads import fetch

if TYPE_CHECKING:
    import torch

# name -> address; PyTorch and the packages concerned look for a file of the same name in their cache
WEIGHTS = {
    "AlexNet": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "Inception": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "FaceNet": "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
}
_BATCH = 16
_FACE_SIZE = 160  # pixels of FaceNet's input
_FACE_MARGIN = 0.15  # of the face's side, around it

Images = Sequence[np.ndarray] | Iterator[np.ndarray]


def find_weights(name: str, download: bool) -> Path:
    """The file of a network in WEIGHTS. Raises: UserError when it is not there (and may or can not be fetched)."""
    import torch

    url = WEIGHTS[name]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    places = [hub / Path(url).name, hub.parent.parent / "checkpoints" / Path(url).name]  # the second is facenet-pytorch's
    for path in places:
        if path.is_file():
            return path
    if not download:
        raise UserError(f"the weights of {name} are not on this machine; put {url} into {hub}, or use --download")
    return fetch(url, places[0], pauses_s=())


def _batches(images: Images) -> Iterator[list[np.ndarray]]:
    held: list[np.ndarray] = []
    for image in images:
        held.append(image)
        if len(held) == _BATCH:
            yield held
            held = []
    if held:
        yield held


def _tensor(images: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """uint8 [H, W, 3] images as float32 [B, 3, H, W], 0..1."""
    import torch

    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float() / 255


def lpips_distances(real: Images, fake: Images, device: torch.device, download: bool = False) -> list[float]:
    """LPIPS (AlexNet) of every pair of uint8 [H, W, 3] images. Raises: UserError without weights, ImportError without torchmetrics."""
    import torch
    from torchmetrics.functional.image.lpips import _LPIPS

    find_weights("AlexNet", download)  # torchvision then finds the file in the cache; the linear layers come with torchmetrics
    network = _LPIPS(pretrained=True, net="alex").to(device).eval()
    values: list[float] = []
    with torch.inference_mode():
        for a, b in zip(_batches(real), _batches(fake)):
            values += network(_tensor(a, device), _tensor(b, device), normalize=True).flatten().tolist()
    return values


def fid(real: Images, fake: Images, device: torch.device, download: bool = False) -> float:
    """Fréchet Inception distance, 2048 features. Raises: UserError without weights, ImportError without torch-fidelity."""
    import torch

    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise UserError("torch-fidelity is not installed; pip install torch-fidelity") from None
    weights = find_weights("Inception", download)
    measure = FrechetInceptionDistance(feature=2048, normalize=True, feature_extractor_weights_path=str(weights)).to(device)
    with torch.inference_mode():
        for images, is_real in ((real, True), (fake, False)):
            for batch in _batches(images):
                measure.update(_tensor(batch, device), real=is_real)
        return float(measure.compute())


def load_facenet(device: torch.device, download: bool = False) -> torch.nn.Module:
    """FaceNet: [B, 3, 160, 160] in about -1..1 -> [B, 512] of length 1. Raises: UserError when it cannot be had."""
    import torch

    try:
        from facenet_pytorch import InceptionResnetV1
    except ImportError:
        raise UserError("facenet-pytorch is not installed; pip install --no-deps facenet-pytorch==2.6.0") from None
    path = find_weights("FaceNet", download)
    network = InceptionResnetV1(pretrained=None, classify=False)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name: value for name, value in weights.items() if not name.startswith("logits.")}  # of its training
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UserError(f"{path} does not hold FaceNet's weights; delete it and fetch it again") from None
    return network.to(device).eval()


def face_embeddings(network: torch.nn.Module, images: Images, boxes: Sequence[np.ndarray], device: torch.device) -> np.ndarray:
    """FaceNet's embeddings of the faces in these boxes: float32 [N, 512] of length 1.

    images: uint8 [H, W, 3]. boxes: left, top, right, bottom in pixels.
    """
    import torch

    def faces() -> Iterator[np.ndarray]:
        for image, box in zip(images, boxes):
            yield cut_face(image, box)

    with torch.inference_mode():
        # facenet-pytorch's standardisation: (value of 0..255 - 127.5) / 128
        found = [network((_tensor(batch, device) * 255 - 127.5) / 128).cpu().numpy() for batch in _batches(faces())]
    return np.concatenate(found)


def cut_face(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A square around a face's box with a margin, uint8 [160, 160, 3]; outside the image its border repeats."""
    centre = (np.asarray(box[:2], float) + box[2:]) / 2
    side = float(max(box[2:] - np.asarray(box[:2], float))) * (1 + 2 * _FACE_MARGIN)
    scale = _FACE_SIZE / max(side, 1.0)
    shift = _FACE_SIZE / 2 - scale * centre - 0.5 + 0.5 * scale  # centres of pixels lie at halves
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(image, matrix, (_FACE_SIZE, _FACE_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
