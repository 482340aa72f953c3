"""Shared ground of all packages: file layout, images, video, geometry, measures. Imports no other package of the project."""
