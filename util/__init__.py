"""Shared ground of all packages: file layout, images, video, geometry, measures. Imports no other package of the project."""

VERSION = "0.1.0"  # the one place; pyproject.toml reads it, CHANGELOG.md and CITATION.cff name it
