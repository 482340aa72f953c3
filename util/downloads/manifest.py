"""What there is to fetch: names, addresses, and sizes and digests where they are known."""

from __future__ import annotations

from dataclasses import dataclass

from util.layout import flownet2_checkpoint


@dataclass(frozen=True)
class Entry:
    """A file that is offered for download."""

    name: str
    addresses: tuple[str, ...] = ()  # tried in this order; whether they still answer is not known
    folder: str = ""  # where a mirror that holds several entries of the same name keeps this one
    size: int | None = None  # bytes
    sha256: str | None = None


_DROPBOX = "https://www.dropbox.com/s/{}?dl=1"

# dataset -> folder of datasets/<D>/ -> archive of its content
DATASETS = {
    "head2headDataset": {
        "dataset": Entry("dataset.zip", (_DROPBOX.format("424wm7cp2fa4o2o/dataset.zip"),), "head2headDataset"),
        "original_videos": Entry("original_videos.zip", (_DROPBOX.format("qzpfz47nwtfryad/original_videos.zip"),), "head2headDataset"),
    },
    "head2headDatasetv2": {
        "dataset": Entry("dataset.zip", (_DROPBOX.format("kcdyoe85cob97lt/dataset.zip"),), "head2headDatasetv2"),
        "original_videos": Entry("original_videos.zip", (_DROPBOX.format("7c8lci8c8b8pli7/original_videos.zip"),), "head2headDatasetv2"),
    },
    "faceforensicspp": {  # its authors give it out on request
        "dataset": Entry("dataset.zip", (), "faceforensicspp"),
        "original_videos": Entry("original_videos.zip", (), "faceforensicspp"),
    },
}
FLOWNET2 = {face: Entry(flownet2_checkpoint(face).name) for face in (True, False)}
PERSONS = Entry("checkpoints.zip")  # folders [<D>/]head2head_<T>/
