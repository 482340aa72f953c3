"""What is computed once per video and kept on disk."""
