"""The synthesised head put back into the full original frames."""
