"""scripts/bench/streaming.py: made people are a complete dataset, and the figures are those of the stream."""

import json

import numpy as np
import pytest

from scripts.bench import made_people, streaming
from util.cli import UserError
from util.image_io import read_image
from util.layout import Dataset, read_camera, read_table


def test_made_people_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(made_people, "DRAWN", 1)
    output = tmp_path / "table.json"
    # flow that is not valid would be computed, and here that is an error
    small = [
        "--identities",
        "2",
        "--frames",
        "14",
        "--workers",
        "1",
        "--seconds",
        "0.3",
        "--threads",
        "2",
        "--batch_size",
        "1",
        "--cache_gb",
        "0",
    ]
    small += ["--preset", "published"]
    assert streaming.main(["--folder", str(tmp_path), *small, "--device", "cpu", "--output", str(output)]) is None
    facts = json.loads(output.read_text())
    (result,) = facts["streams"]
    fewest, most = result["clips_per_identity"]
    assert most - fewest <= 1 and most >= 1
    assert result["frames_per_s"] > 0 and result["read_bytes_per_frame"] > sum(facts["bytes_per_frame"].values()) / 2
    assert all(ms > 0 for ms in facts["parts_ms"].values()) and facts["start_s"].keys() >= {"list identities", "prepare, everything there"}

    small[small.index("published")] = "default"  # without flow, with changed faces
    assert streaming.main(["--folder", str(tmp_path), *small, "--device", "cpu", "--output", str(output)]) is None
    assert json.loads(output.read_text())["streams"][0]["frames_per_s"] > 0

    data = Dataset.open(streaming.DATASET, tmp_path)
    drawn, copied = (data.sequences("train", name)[0] for name in data.identities())
    assert read_image(drawn.path("images", 3)).std() > 20 and read_image(drawn.path("nmfcs", 3)).any(2).mean() > 0.05
    points, (scale, _, _) = read_table(drawn.path("landmarks70", 3)), read_camera(drawn.path("misc", 3))
    assert points.shape == (70, 2) and 0 < points.min() < points.max() < 256 and scale > 1
    assert drawn.flow_path("dis", 256).read_bytes() == copied.flow_path("dis", 256).read_bytes()
    assert not np.array_equal(read_image(drawn.path("images", 3)), read_image(drawn.path("images", 4)))


def test_options_out_of_range(tmp_path):
    with pytest.raises(UserError, match="must be above 0"):
        streaming.main(["--folder", str(tmp_path), "--identities", "0"])
