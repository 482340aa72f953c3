"""Networks, losses, optical flow and the training step."""
