"""The training loop and what it is made of: how a run begins, clock, loss meter, log, checkpoints, clean stop."""
