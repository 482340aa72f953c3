"""FlowNet2 (Ilg et al. 2017), in the key layout of the published checkpoints."""

from models.flownet2_pytorch.flownet2 import FlowNet2

__all__ = ["FlowNet2"]
