"""The generator and the discriminators, with the published checkpoints' state-dict names."""

from models.networks.discriminators import MultiscaleDiscriminator
from models.networks.generator import Generator, build_generator, conditioning_channels

__all__ = ["Generator", "MultiscaleDiscriminator", "build_generator", "conditioning_channels"]
