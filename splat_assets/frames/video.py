"""Frames of a video, sampled in time, with PyAV (FFmpeg).

Time is cut into slots of 1/fps around the instants start, start + 1/fps, …; every slot gives the
sharpest of a few frames near its middle, since a hand-held camera is still for moments only. What
counts is each frame's own presentation time, so variable frame rates are sampled right. Frames are
streamed: no more than a few are held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image

from splat_assets.compute import available_threads
from splat_assets.frames.images import UnreadableError, upright, upright_size
from splat_assets.frames.scoring import FrameStats, fit, score_grey, work_size

WINDOW = 0.3  # of a slot, to either side of its middle: where the sharpest frame is looked for
CANDIDATES = 8  # frames scored in a slot at most
_HDR_CURVES = (16, 18)  # ITU-T H.273 transfer characteristics: PQ and HLG
_EPSILON = 1e-6  # seconds; times are sums of fractions
_MIDDLE_BONUS = 0.15  # at the window's edge a frame must be this much sharper than in the middle
_HD_LINES = 720  # from here on, untagged video is BT.709 by convention, below it is BT.601
_MATRICES = {  # ITU-T H.273 matrix coefficients → what swscale calls them
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
# Interpolate chroma and round exactly: 6 dB closer to the camera's RGB than swscale's fast path.
_ACCURATE = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_MATRIX_TO_EXIF = {
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


@dataclass(frozen=True)
class VideoInfo:
    ""

    path: Path
    stream: int  # among the streams with moving pictures
    duration_sec: float | None
    width: int
    height: int
    hdr: bool


@dataclass
class Sample:
    """One sampled frame. Call `image` while the iterator that gave it is open, or soon after."""

    slot: int
    time_sec: float
    stats: FrameStats
    orientation: int  # as in EXIF, 1..8
    pixel_ratio: float  # width / height of a stored pixel
    frame: av.VideoFrame = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as displayed, before resizing."""
        return upright_size(self._square_size, self.orientation)

    @property
    def _square_size(self) -> tuple[int, int]:
        """Stored (width, height) with square pixels: anamorphic video is widened."""
        return max(1, round(self.frame.width * self.pixel_ratio)), self.frame.height

    def image(self, max_long_side: int) -> Image.Image:
        """The frame as upright 8-bit sRGB-coded RGB with square pixels, reduced to the limit."""
        pixels = self.frame.to_ndarray(
            format="rgb24",
            src_colorspace=_colorspace(self.frame),
            src_color_range=_color_range(self.frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=int(_ACCURATE),
        )
        image = Image.fromarray(pixels)
        size = fit(*self._square_size, max_long_side)
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        return upright(image, self.orientation)


def probe(path: Path, stream: int = 0) -> VideoInfo:
    """Open the file and describe the chosen video stream. Raises `UnreadableError`."""
    with closing(_open(path)) as container:
        video = _pick(container, stream)
        duration = None
        if video.duration is not None and video.time_base is not None:
            duration = float(video.duration * video.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        return VideoInfo(
            path=path,
            stream=stream,
            duration_sec=duration if duration and duration > 0 else None,
            width=video.width,
            height=video.height,
            hdr=video.codec_context.color_trc in _HDR_CURVES,
        )


def sample_video(
    path: Path,
    *,
    fps: float,
    stream: int = 0,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    slack_sec: float = _EPSILON,
) -> Iterator[Sample]:
    """Decode once and give the sharpest frame of every slot, in order of time.

    Damaged packets are skipped; a truncated file gives the frames that it holds.

    Args:
        fps: slots per second; slots without a frame near them (gaps) give nothing.
        start_sec, end_sec: part of the video used, in seconds from its beginning.
        slack_sec: a frame this much before the start or after the end belongs to the part too,
            where they come from another clock than the frames' times.

    Raises:
        UnreadableError: no video stream, or nothing in it can be decoded.
    """
    scorer = _Scorer()
    contest: _Slot | None = None
    for timed in _frames_between(path, stream, start_sec, end_sec, slack_sec):
        slot = math.floor((timed.seconds - start_sec) * fps + 0.5)
        if contest is None or slot != contest.index:
            if contest is not None:
                yield contest.result()
            contest = _Slot(slot, start_sec + slot / fps, 1.0 / fps, scorer, slack_sec)
        contest.offer(timed)
    if contest is not None and contest.reached:  # else the video ends before the last instant
        yield contest.result()


@dataclass(frozen=True)
class _Timed:
    """A decoded frame, when it is shown, and how."""

    frame: av.VideoFrame
    seconds: float
    orientation: int
    pixel_ratio: float


class _Scorer:
    """Scores frames on a small grey picture, made by one reused scaler."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> FrameStats:
        width, height = work_size(frame.width, frame.height)
        grey = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="gray",
            src_color_range=_color_range(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA,
        )
        return score_grey(grey.to_ndarray())


class _Slot:
    """The contest for one slot; at least one frame is offered."""

    def __init__(
        self, index: int, middle: float, width: float, scorer: _Scorer, slack_sec: float
    ) -> None:
        self.index = index
        self._slack = slack_sec
        self.reached = False  # whether a frame is shown at the instant, or after it
        self._scorer, self._middle, self._half = scorer, middle, WINDOW * width
        self._winner: tuple[float, _Timed, FrameStats] | None = None
        self._nearest: tuple[float, _Timed] | None = None  # for slots with no frame in the window
        self._last_scored = -math.inf

    def offer(self, timed: _Timed) -> None:
        self.reached |= timed.seconds >= self._middle - self._slack
        off = abs(timed.seconds - self._middle)
        if off > self._half + _EPSILON:
            if self._nearest is None or off < self._nearest[0]:
                self._nearest = (off, timed)
            return
        if timed.seconds - self._last_scored < 2 * self._half / CANDIDATES - _EPSILON:
            return
        self._last_scored = timed.seconds
        stats = self._scorer(timed.frame)
        # One grey level² is no detail: without any, the middle wins.
        merit = (stats.sharpness + 1.0) * (1 - _MIDDLE_BONUS * off / self._half)
        if self._winner is None or merit > self._winner[0]:
            self._winner = (merit, timed, stats)

    def result(self) -> Sample:
        if self._winner is not None:
            _, timed, stats = self._winner
        else:
            assert self._nearest is not None
            timed = self._nearest[1]
            stats = self._scorer(timed.frame)
        return Sample(
            self.index, timed.seconds, stats, timed.orientation, timed.pixel_ratio, timed.frame
        )


def _frames_between(
    path: Path, stream: int, start_sec: float, end_sec: float | None, slack_sec: float
) -> Iterator[_Timed]:
    """Frames within [start, end], by presentation time; seeks rather than decoding up to there."""
    for seek in (True, False) if start_sec > 0 else (False,):
        with closing(_open(path)) as container:
            video = _pick(container, stream)
            landed = not seek
            for timed in _decode(container, video, start_sec - slack_sec if seek else None):
                if not landed and timed.seconds > start_sec + max(
                    _frame_duration(video), slack_sec
                ):
                    break  # the file's index led past the start: decode from the beginning
                landed = True
                if end_sec is not None and timed.seconds > end_sec + slack_sec:
                    return
                if timed.seconds >= start_sec - slack_sec:
                    yield timed
            else:
                if landed:
                    return


def _decode(
    container: InputContainer, video: av.VideoStream, seek_to: float | None
) -> Iterator[_Timed]:
    """Decode one stream; times count from the beginning of the file, as players show them."""
    video.thread_type = "AUTO"
    video.codec_context.thread_count = available_threads()
    origin = (container.start_time or 0) / av.time_base
    if seek_to is not None and video.time_base:
        try:
            target = max(0, int((seek_to + origin) / video.time_base))
            container.seek(target, stream=video, backward=True)
        except av.FFmpegError:
            container.seek(0)
    ratio = _pixel_ratio(video)
    last = -math.inf
    problem = ""
    for packet in _packets(container, video):
        try:
            frames = packet.decode()
        except (av.InvalidDataError, av.EOFError) as error:
            problem = str(error.strerror)
            continue
        except av.FFmpegError as error:
            if last == -math.inf:  # a codec this build cannot decode
                raise UnreadableError(f"cannot be decoded ({error.strerror})") from None
            return  # what came so far is good
        for frame in frames:
            if frame.is_corrupt:
                problem = "corrupt frame"
                continue
            if frame.time is not None:
                seconds = frame.time - origin
            else:  # a few containers give no times: count on the frame rate
                seconds = max(last, -_frame_duration(video)) + _frame_duration(video)
            if seconds > last:  # time must not run backwards (broken muxers)
                last = seconds
                yield _Timed(frame, seconds, _orientation(frame, video), ratio)
    if problem and last == -math.inf:
        raise UnreadableError(f"damaged: not one frame can be decoded ({problem})")


def _packets(container: InputContainer, video: av.VideoStream) -> Iterator[av.Packet]:
    """Packets of one stream; a damaged or cut-off end ends them early rather than failing."""
    packets = container.demux(video)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        yield packet


def _open(path: Path) -> InputContainer:
    try:
        container = av.open(str(path), "r", metadata_errors="replace")
    except av.FFmpegError as error:
        if path.is_file() and path.stat().st_size == 0:
            raise UnreadableError("empty file") from None
        raise UnreadableError(f"not a video, or damaged ({error.strerror})") from None
    return container


def _pick(container: InputContainer, stream: int) -> av.VideoStream:
    """The `stream`-th stream of moving pictures; cover art does not count."""
    streams = [
        video
        for video in container.streams.video
        if not video.disposition & av.stream.Disposition.attached_pic
        and video.codec_context is not None
    ]
    if not streams and any(video.codec_context is None for video in container.streams.video):
        raise UnreadableError("this build of PyAV has no decoder for its codec")
    if not streams:
        raise UnreadableError("no video stream")
    if stream >= len(streams):
        raise UnreadableError(
            f"no video stream {stream}, they are numbered 0 to {len(streams) - 1}"
        )
    return streams[stream]


def _frame_duration(video: av.VideoStream) -> float:
    """Nominal seconds between frames."""
    return 1.0 / float(video.average_rate or video.guessed_rate or 25)


def _pixel_ratio(video: av.VideoStream) -> float:
    """Width over height of a pixel; 1 where the file does not tell or tells nonsense."""
    ratio = video.sample_aspect_ratio
    return float(ratio) if ratio and 0.2 < ratio < 5 else 1.0


def _orientation(frame: av.VideoFrame, video: av.VideoStream) -> int:
    """How to stand the frame upright, as an EXIF orientation; 1 for angles between the quarters.

    The display matrix [[a, b], [c, d]] (16.16 fixed point) takes a stored point (x, y) to
    (a x + c y, b x + d y), y down. Older files say `rotate`, clockwise degrees, instead.
    """
    side_data: Any = frame.side_data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data)[:36], dtype=np.int32) / 65536.0
            a, b, c, d = (round(matrix[i]) for i in (0, 1, 3, 4))
            return _MATRIX_TO_EXIF.get((a, b, c, d), 1)
    turned = video.metadata.get("rotate", "")
    return {"90": 6, "180": 3, "270": 8, "-90": 8}.get(turned, 1)


def _colorspace(frame: av.VideoFrame) -> Colorspace:
    guess = Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
    return _MATRICES.get(frame.colorspace, guess)


def _color_range(frame: av.VideoFrame) -> ColorRange:
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith(
        ("yuvj", "rgb", "gbr")
    )
    return ColorRange.JPEG if full else ColorRange.MPEG
