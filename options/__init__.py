"""Command-line options: argparse at the edge, one frozen dataclass per command."""
