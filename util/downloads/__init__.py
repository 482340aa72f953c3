"""Downloads: files over HTTP, zip archives in parts, the list of what there is to fetch."""

from util.downloads.fetching import Absent, fetch

__all__ = ["Absent", "fetch"]
