"""scripts/bench/load.py: the long footage, and the figures of memory."""

import numpy as np
import pytest
from synthetic_videos import face_frame, write_video

from scripts.bench.load import HD, make_footage, told, watch
from util.cli import UserError
from util.video.reading import probe, read_frames


def test_footage_goes_there_and_back_without_a_gap(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", (face_frame((320, 240), (100 + 20 * i, 120), 1.0) for i in range(4)), 20)
    count = make_footage(clip, tmp_path / "long.mp4", 18 / 20 / 60)
    assert count == 18 and sorted(p.name for p in tmp_path.glob("*.mp4")) == ["clip.mp4", "long.mp4"]
    info, frames = probe(tmp_path / "long.mp4"), list(read_frames(tmp_path / "long.mp4"))
    assert (info.width, info.height, info.fps, len(frames)) == (*HD, 20, 18)
    small = np.stack([f[::20, ::20].astype(float) for f in frames])
    assert [int(np.abs(small[:6] - s).mean((1, 2, 3)).argmin()) for s in small] == 3 * list(range(6))  # 0 1 2 3 2 1, over and over
    assert np.abs(small[1] - small[5]).mean() < 3 < np.abs(small[1] - small[2]).mean()


@pytest.mark.parametrize("mb", [0.0, 2.5])
def test_the_slope_of_memory(mb):
    """A command of 4,000 frames that begins with a leap."""
    seconds = np.linspace(0, 50, 200)
    figures = told(np.c_[seconds, np.where(seconds < 5, 20, 300 + mb * seconds / 50 * 4)], 4000)
    assert figures["mb_per_1000_frames"] == pytest.approx(mb, abs=1e-6)
    assert figures["mb_peak"] == pytest.approx(300 + 4 * mb)
    assert [figures[f"mb_at_{n}"] for n in (25, 50, 100)] == pytest.approx([300 + mb, 300 + 2 * mb, 300 + 3.78 * mb], abs=0.2)


def test_a_command_is_watched_to_its_end(tmp_path):
    figures = watch("help", 1, "scripts/images_to_video.py", "--help")
    assert figures["seconds"] > 0 and figures["mb_peak"] > 1
    with pytest.raises(UserError, match=r"nothing ended with 1: error: there is no folder"):
        watch("nothing", 1, "scripts/images_to_video.py", "--results_dir", tmp_path / "none")
