import av
import numpy as np
import pytest
from synthetic_videos import write_yuv

from util.video.reading import frames_at, probe, read_frames

WIDTH, HEIGHT, STEP = 352, 288, 4
MPEG2 = {"flags": "+ilme+ildct", "b": "20M", "g": "12"}


def moment(t):
    """Grey [H, W], 0 to 1: a bar that moves by STEP columns from field to field, above a still part with lines of two rows."""
    image = np.full((HEIGHT, WIDTH), 0.25)
    image[:, 20 + STEP * t : 50 + STEP * t] = 0.75
    image[HEIGHT // 2 :] = np.where(np.arange(HEIGHT - HEIGHT // 2) // 2 % 2, 0.7, 0.3)[:, None]
    return image


def interlaced(frames, top_first=True):
    """R'G'B' [H, W, 3] whose two fields are of different times."""
    for k in range(frames):
        image, later = moment(2 * k), moment(2 * k + 1)
        image[int(top_first) :: 2] = later[int(top_first) :: 2]
        yield np.repeat(image[..., None], 3, -1)


def combs(image):
    """Greatest difference of a row in the moving part from the mean of its neighbours, 0 to 255."""
    moving = image[4 : HEIGHT // 2 - 4].astype(int)
    return np.abs(moving[1:-1] - (moving[:-2] + moving[2:]) / 2).max()


def bar(image):
    """Column where the moving bar begins."""
    return int(np.argmax(image[HEIGHT // 4, :, 1] > 128))


@pytest.mark.parametrize(
    ("suffix", "codec", "fmt", "field", "options"),
    [
        (".mp4", "libx264", "yuv420p", "tff", {"x264-params": "interlaced=1", "crf": "8", "preset": "ultrafast", "g": "12"}),
        (".mkv", "libx264", "yuv422p10le", "bff", {"x264-params": "bff=1", "crf": "8", "preset": "ultrafast", "g": "12"}),
        (".mpg", "mpeg2video", "yuv420p", "tff", MPEG2),
        (".ts", "mpeg2video", "yuv422p", "bff", MPEG2),
        (".mov", "prores_ks", "yuv422p10le", "tff", {"flags": "+ildct"}),
        (".mkv", "ffv1", "yuv420p", "bff", {}),
        (".h264", "libx264", "yuv420p", "tff", {"x264-params": "interlaced=1", "crf": "8", "preset": "ultrafast", "g": "12"}),
    ],
)
def test_interlaced_video_comes_without_combs_at_the_same_rate_and_in_time(tmp_path, suffix, codec, fmt, field, options):
    path = tmp_path / f"v{suffix}"
    write_yuv(path, interlaced(30, field == "tff"), codec, fmt, field=field, options=options)
    with av.open(str(path)) as container:
        assert combs(next(container.decode(video=0)).to_ndarray(format="rgb24")) > 100
    info = probe(path)
    assert info.notes == ("interlaced: deinterlaced",) and info.fps == 25
    frames = list(read_frames(path, info))
    assert len(frames) == 30
    assert max(combs(image) for image in frames) <= 12
    for k, image in enumerate(frames):
        assert abs(bar(image) - 20 - 2 * STEP * k) <= 2
        still = image[HEIGHT // 2 + 8 : -8, :, 1].astype(int)
        assert still.max() - still.min() >= 80  # not one field blown up: its lines would be grey or gone
    for first in (1, 12, 25, 29):
        assert all(np.array_equal(a, b) for a, b in zip(read_frames(path, info, first=first), frames[first:], strict=True))
    numbers = [29, 28, 27, 4, 4, 5]
    assert all(np.array_equal(image, frames[n]) for n, image in zip(numbers, frames_at(path, info, numbers), strict=True))


def test_frames_that_are_not_marked_pass_untouched(tmp_path):
    """Also where the marks begin on the way, as when two recordings are joined."""
    options = {"crf": "3", "preset": "ultrafast"}
    whole = [np.repeat(moment(2 * k)[..., None], 3, -1) for k in range(10)]
    plain = write_yuv(tmp_path / "plain.h264", whole, "libx264", "yuv420p", options=options)
    assert probe(plain).notes == ()
    alone = list(read_frames(plain))
    for image, shown in zip(whole, alone, strict=True):
        assert np.median(np.abs(image * 255 - shown)) <= 3
    marked = write_yuv(
        tmp_path / "marked.h264", interlaced(10), "libx264", "yuv420p", field="tff", options={**options, "x264-params": "interlaced=1"}
    )
    joined = tmp_path / "joined.h264"
    joined.write_bytes(plain.read_bytes() + marked.read_bytes())
    both = list(read_frames(joined))
    assert len(both) == 20
    assert all(np.array_equal(a, b) for a, b in zip(alone, both))
    assert max(combs(image) for image in both) <= 12


def test_an_interlaced_video_of_one_frame_and_of_a_change_of_size_is_whole(tmp_path):
    options = {"x264-params": "interlaced=1", "crf": "8", "preset": "ultrafast"}
    one = write_yuv(tmp_path / "one.h264", interlaced(1), "libx264", "yuv420p", field="tff", options=options)
    assert len(list(read_frames(one))) == 1
    other = write_yuv(
        tmp_path / "other.h264", (image[:144, :176] for image in interlaced(5)), "libx264", "yuv420p", field="tff", options=options
    )
    joined = tmp_path / "joined.h264"
    joined.write_bytes(one.read_bytes() + other.read_bytes() + one.read_bytes())
    shapes = [image.shape for image in read_frames(joined)]
    assert shapes == [(HEIGHT, WIDTH, 3)] * 7
