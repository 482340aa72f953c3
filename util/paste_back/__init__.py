"""Pastes the synthesised head back into the full original frames."""
