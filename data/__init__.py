"""Datasets: index -> clip of conditioning images, frames and landmarks."""
