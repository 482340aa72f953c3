import av
import numpy as np
import pytest
from synthetic_videos import write_yuv

from util.video.colour import hlg_scene, pq_light
from util.video.reading import probe, read_frames
from util.video.writing import VideoWriter

BARS = np.array(
    [(235, 235, 235), (128, 128, 128), (16, 16, 16), (200, 40, 40), (40, 180, 60), (40, 60, 200), (220, 200, 40), (210, 160, 130)], float
)
X264, X265 = {"crf": "5", "preset": "ultrafast"}, {"crf": "5", "x265-params": "log-level=none"}
# linear light of BT.709 to that of BT.2020 (ITU-R BT.2087) and of P3 (D65)
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
TO_P3 = np.array([[0.8225, 0.1774, 0.0000], [0.0332, 0.9669, 0.0000], [0.0171, 0.0724, 0.9108]])


def picture(bars, size=(160, 32)):
    """Bars side by side, float [H, W, 3], 0 to 1; size: width, height."""
    return np.repeat(np.repeat(bars[None], size[1], 0), size[0] // len(bars), 1)


def colours(image, n=8):
    """What the middle of every bar shows, 0 to 255."""
    width, quarter = image.shape[1] // n, image.shape[0] // 4
    return np.stack([image[quarter:-quarter, k * width + width // 3 : (k + 1) * width - width // 3].mean((0, 1)) for k in range(n)])


def light(bars):
    """Linear light of sRGB bars (0 to 255); 1 is white."""
    return np.where(bars <= 0.04045 * 255, bars / 255 / 12.92, ((bars / 255 + 0.055) / 1.055) ** 2.4)


def hdr(light_709, transfer):
    """HLG (18) or PQ (16) signals, in BT.2020, for light as a multiple of diffuse white (203 cd/m2)."""
    wide, steps = light_709 @ TO_2020.T, np.linspace(0, 1, 100001)
    if transfer == 16:
        return np.interp(wide, pq_light(steps), steps)
    screen = wide * 203 / 1000
    luminance = screen @ (0.2627, 0.6780, 0.0593)
    return np.interp(screen * np.maximum(luminance, 1e-9)[:, None] ** (1 / 1.2 - 1), hlg_scene(steps), steps)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [5, 6, 1, 9])
@pytest.mark.parametrize(
    ("codec", "fmt", "suffix", "options"),
    [
        ("libx264", "yuv420p", ".mp4", X264),
        ("libx264", "yuv422p10le", ".mkv", X264),
        ("libx265", "yuv420p10le", ".mov", X265),
        ("ffv1", "yuv444p", ".mkv", {}),
        ("libvpx-vp9", "yuv420p", ".webm", {"crf": "5", "b": "0", "deadline": "realtime"}),
    ],
)
def test_named_matrix_and_range_give_the_right_colours(tmp_path, codec, fmt, suffix, options, matrix, full):
    if "vp9" in codec and matrix == 5:
        pytest.skip("VP9 names BT.601 as SMPTE 170M only")
    tags = matrix, 1 + full, 2, 2
    path = tmp_path / f"v{suffix}"
    write_yuv(path, [picture(BARS / 255)] * 4, codec, fmt, matrix=5 if matrix == 6 else matrix, full=full, tags=tags, options=options)
    assert probe(path).notes == ()
    assert np.abs(colours(next(read_frames(path))) - BARS).max() <= 4


@pytest.mark.parametrize(("size", "matrix"), [((704, 576), 5), ((480, 640), 5), ((1280, 536), 1), ((720, 1280), 1), ((1920, 1080), 1)])
def test_without_a_name_hd_is_bt709_and_sd_is_bt601(tmp_path, size, matrix):
    path = write_yuv(tmp_path / "v.mp4", [picture(BARS / 255, size)], "libx264", "yuv420p", matrix=matrix, options=X264)
    assert np.abs(colours(next(read_frames(path))) - BARS).max() <= 4
    assert np.abs(colours(next(read_frames(path, max_side=160))) - BARS).max() <= 4


@pytest.mark.parametrize("fmt", ["bgra", "bgr0", "gbrp10le", "nv12", "gray", "rgb24"])
def test_other_formats_of_pixels_keep_their_colours(tmp_path, fmt):
    bars = np.repeat(BARS[:3, :1], 3, 1) if fmt == "gray" else BARS
    codec = {"nv12": "rawvideo", "rgb24": "png"}.get(fmt, "ffv1")
    path = tmp_path / ("v.mov" if codec == "png" else "v.mkv")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 32, fmt
        image = np.ascontiguousarray(picture(bars, (160 // len(bars) * len(bars), 32)))
        image = np.pad(image, ((0, 0), (0, 160 - image.shape[1]), (0, 0))).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=fmt)
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    shown = colours(next(read_frames(path))[:, : 160 // len(bars) * len(bars)], len(bars))
    assert np.abs(shown - bars).max() <= 4


@pytest.mark.parametrize(("transfer", "name"), [(18, "HLG"), (16, "PQ")])
@pytest.mark.parametrize(
    ("codec", "fmt", "suffix", "full", "options"),
    [
        ("libx265", "yuv420p10le", ".mp4", False, X265),
        ("libx264", "yuv420p10le", ".mkv", True, X264),
        ("libx264", "yuv420p", ".mp4", False, X264),
        ("ffv1", "yuv422p10le", ".mkv", False, {}),
    ],
)
def test_hdr_shows_what_sdr_of_the_same_scene_does(tmp_path, transfer, name, codec, fmt, suffix, full, options):
    path = tmp_path / f"v{suffix}"
    tags = 9, 1 + full, 9, transfer
    write_yuv(path, [picture(hdr(light(BARS), transfer))] * 4, codec, fmt, matrix=9, full=full, tags=tags, options=options)
    assert probe(path).notes == (f"HDR ({name}): tone-mapped to sRGB",)
    assert np.abs(colours(next(read_frames(path))) - BARS).max() <= (6 if "10" in fmt else 10)
    assert np.abs(colours(next(read_frames(path, max_side=80))) - BARS).max() <= (8 if "10" in fmt else 12)


@pytest.mark.parametrize("transfer", [18, 16])
def test_highlights_are_rolled_off_in_order_and_keep_their_hue(tmp_path, transfer):
    levels = np.array([0.5, 0.8, 1.0, 1.5, 2.5, 4.9])
    bars = np.concatenate([np.repeat(levels[:, None], 3, 1), [(2.0, 1.0, 0.5)]])
    tags = 9, 1, 2, transfer  # primaries go without saying
    path = write_yuv(tmp_path / "v.mkv", [picture(hdr(bars, transfer))], fmt="yuv444p10le", matrix=9, tags=tags)
    shown = colours(next(read_frames(path)), len(bars))
    grey = shown[:-1].mean(1)
    assert np.abs(shown[:-1] - grey[:, None]).max() <= 2
    assert (np.diff(grey) > 0).all() and grey[-1] >= 254
    assert grey[0] == pytest.approx(188, abs=2) and grey[2] == pytest.approx(244, abs=2)
    r, g, b = light(shown[-1])
    assert (g / r, b / r) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.25, abs=0.03))


@pytest.mark.parametrize(("primaries", "transfer", "to_wide", "name"), [(12, 1, TO_P3, "P3"), (9, 14, TO_2020, "BT.2020")])
def test_wide_gamuts_without_hdr_come_to_srgb(tmp_path, primaries, transfer, to_wide, name):
    signal = np.maximum((BARS / 255) ** 2.4 @ to_wide.T, 0) ** (1 / 2.4)
    tags = (9 if primaries == 9 else 1), 1, primaries, transfer
    path = write_yuv(tmp_path / "v.mkv", [picture(signal)], fmt="yuv444p10le", matrix=tags[0], tags=tags)
    assert probe(path).notes == (f"wide gamut ({name}): converted to sRGB",)
    assert np.abs(colours(next(read_frames(path))) - BARS).max() <= 4


@pytest.mark.parametrize("size", [(160, 32), (1280, 720)])
def test_our_own_videos_come_back_in_their_colours(tmp_path, size):
    image = picture(BARS, size).astype(np.uint8)
    with VideoWriter(tmp_path / "v.mp4", 25, crf=5) as writer:
        writer.write(image)
    assert np.abs(colours(next(read_frames(tmp_path / "v.mp4"))) - BARS).max() <= 4


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_hdr_that_only_the_container_names_is_known(tmp_path, suffix):
    signal = picture(hdr(light(BARS), 18))
    plain = write_yuv(tmp_path / "plain.mkv", [signal], "libx264", "yuv420p10le", matrix=9, options=X264)
    path = tmp_path / f"v{suffix}"
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 9, 1, 9, 18
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    assert probe(path).notes == ("HDR (HLG): tone-mapped to sRGB",)
    assert np.abs(colours(next(read_frames(path))) - BARS).max() <= 6
