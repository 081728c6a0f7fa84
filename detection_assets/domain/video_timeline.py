"""When each frame of a video is shown, and which packets a decoder needs for it, without decoding any.

A timeline holds about 20 bytes a frame, which is less than what the container's own index costs.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from detection_assets.domain.video_bitstream import REFERENCE, PacketFacts, reader_for

CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,mjpeg,ivf,flv,asf,ogg,mxf,dv,nut,gif"
"""What is opened. Playlists and the like are not: they name other files, and a stranger's file must not."""

NO_PTS = -(2**63)


class VideoError(Exception):
    """A video that cannot be used; the message says what is wrong and what to do about it."""


@dataclass(frozen=True)
class Timeline:
    """The packets of a video stream, in decoding order.

    Attributes:
        time_base: Seconds of one tick.
        pts: Presentation timestamp of each packet in ticks; `NO_PTS` where there is none.
        dts: Decoding timestamp of each packet, likewise.
        size: Bytes of each packet.
        key: Packets marked as key frames.
        shown: Packets whose frame is shown (an edit list may hide some).
        reference: Packets whose pictures others may be predicted from.
        restarts: Positions of packets from which decoding can start afresh with the same pixels as a decoder that
            came from the beginning, ascending, the first one 0; empty unless `doubt` is empty.
        doubt: Why packets of this stream may not be left out; empty where that is proven to change no pixel.
        ordered: Timestamps follow the order in which frames are shown, not merely that in which they are stored.
        codec: FFmpeg's name of the codec.
        fps: Average frame rate as the container states it, or 0.
        declared: Frames that the header claims, or 0 if it makes no claim.
        declared_s: Seconds that the header claims for the video stream, or 0.
        broken: Packets that the container marks as damaged.
        damage: What stopped the reading before the end of the file; empty if nothing did.
    """

    time_base: Fraction
    pts: np.ndarray
    dts: np.ndarray
    size: np.ndarray
    key: np.ndarray
    shown: np.ndarray
    reference: np.ndarray
    restarts: np.ndarray
    doubt: str
    ordered: bool
    codec: str
    fps: float
    declared: int
    declared_s: float
    broken: int
    damage: str

    @property
    def display(self) -> np.ndarray:
        """Ascending timestamps of the shown frames that have one, in ticks: the frame's index is its place here."""
        return np.sort(self.pts[self.shown & (self.pts != NO_PTS)])

    @property
    def span_s(self) -> float:
        """Seconds from the first shown frame to the end of the last."""
        ticks = self.display
        if not len(ticks):
            ticks = np.sort(self.dts[self.shown & (self.dts != NO_PTS)])
        if not len(ticks):
            return len(self.pts) / self.fps if self.fps else 0.0
        last = int(ticks[-1] - ticks[-2]) if len(ticks) > 1 else round(1 / self.fps / self.time_base) if self.fps else 0
        return float((int(ticks[-1] - ticks[0]) + last) * self.time_base)

    @property
    def missing_s(self) -> float:
        """Seconds that the header claims and that the file does not hold; 0 if it keeps its word.

        Only a claim of more frames *and* of more time counts: a header may round either.
        """
        if self.declared <= len(self.pts):
            return 0.0
        span = self.span_s
        short = self.declared_s - span
        return short if short > max(0.2, 2 * span / max(len(self.pts), 1)) else 0.0


def open_video(path: Path) -> Any:
    """Opens a local video file, and nothing else: no network, no playlists, no files that the file names.

    Args:
        path: The file.

    Returns:
        PyAV's input container, with at least one video stream.

    Raises:
        VideoError: The file is empty, is not a video, is cut off before its index or has no video stream.
    """
    if not path.is_file():
        raise VideoError("the file does not exist; add it again")
    if not path.stat().st_size:
        raise VideoError("the file is empty (0 bytes); copy it again from where it came")
    try:
        # `file:` keeps names such as `concat:a` or `a:b.mp4` from being read as protocols.
        container = av.open(
            f"file:{path}",
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="ignore",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_why_not(path, error)) from error
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise VideoError(f"there is no video in it, only {kinds}; export it again with its picture track")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise VideoError("its codec is not known to FFmpeg; convert it to H.264")
    return container


def _why_not(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return "its index (moov) is missing, so it was cut off while being written or copied; copy or export it again"
    try:
        head.decode("utf-8")
        is_text = b"\0" not in head
    except UnicodeDecodeError:
        is_text = False
    if is_text:
        return "it is text, not a video, whatever its name says; replace it by the video"
    if isinstance(error, av.error.InvalidDataError):
        return "it is not a video that FFmpeg can read, or its beginning is damaged; export it again as H.264 in MP4"
    return f"it cannot be opened as a video ({error}); export it again as H.264 in MP4"


def read_timeline(path: Path) -> Timeline:
    """Reads the packets of a video's first video stream once.

    Args:
        path: The file.

    Raises:
        VideoError: The file is not a readable video.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        codec = context.name
        reader = reader_for(codec, bytes(context.extradata or b""))
        doubt = reader if isinstance(reader, str) else ""
        pts, dts, size, layer = array("q"), array("q"), array("I"), array("b")
        key, shown, restart, sets, all_sets = bytearray(), bytearray(), bytearray(), bytearray(), bytearray()
        damage, top_layer, new_sets, broken = "", 0, False, 0
        facts = PacketFacts()
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                pts.append(NO_PTS if packet.pts is None else packet.pts)
                dts.append(NO_PTS if packet.dts is None else packet.dts)
                size.append(packet.size)
                key.append(packet.is_keyframe)
                shown.append(not packet.is_discard)
                broken += packet.is_corrupt
                if not isinstance(reader, str) and not doubt:
                    facts = reader.facts(bytes(packet))
                    # A damaged packet breaks its promise without breaking the stream's; decoding will tell.
                    doubt = "" if packet.is_corrupt else facts.doubt
                    top_layer = max(top_layer, facts.temporal_layer)
                    new_sets = new_sets or facts.new_sets
                layer.append(facts.disposable_layer)
                restart.append(facts.restart)
                sets.append(facts.sets)
                all_sets.append(facts.all_sets)
        except av.error.FFmpegError as error:
            damage = f"reading stops after {len(pts)} frames ({error.strerror})"
        time_base = Fraction(stream.time_base)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        declared, declared_s = stream.frames, float((stream.duration or 0) * time_base)
        reorders, container_name = bool(context.has_b_frames), container.format.name
    flags = {
        name: np.frombuffer(bytes(values), dtype=bool)
        for name, values in (("key", key), ("shown", shown), ("restart", restart), ("sets", sets), ("all", all_sets))
    }
    ticks = np.frombuffer(pts, dtype=np.int64) if pts else np.zeros(0, np.int64)
    reference = np.frombuffer(layer, dtype=np.int8) if layer else np.zeros(0, np.int8)
    reference = (reference == REFERENCE) | (reference < top_layer)
    ordered = not (reorders and len(ticks) > 2 and bool((np.diff(ticks) > 0).all()))
    doubt = doubt or _doubt_about_time(ticks, reorders and container_name == "avi", ordered)
    restarts = np.zeros(0, np.int64)
    if not doubt:
        restarts, doubt = _restarts(ticks, flags, new_sets)
    return Timeline(
        time_base=time_base,
        pts=ticks,
        dts=np.frombuffer(dts, dtype=np.int64) if dts else ticks,
        size=np.frombuffer(size, dtype=np.dtype(f"u{size.itemsize}")) if size else np.zeros(0, np.uint64),
        key=flags["key"],
        shown=flags["shown"],
        reference=reference,
        restarts=restarts,
        doubt=doubt,
        ordered=ordered,
        codec=codec,
        fps=fps,
        declared=declared,
        declared_s=declared_s,
        broken=broken,
        damage=damage,
    )


def _doubt_about_time(pts: np.ndarray, reordered_avi: bool, ordered: bool) -> str:
    """Skipping goes by timestamps, so each frame needs its own, and their order must be the display order."""
    if not len(pts):
        return "it has no packets"
    if (pts == NO_PTS).any():
        return "not every packet has a timestamp"
    if len(np.unique(pts)) != len(pts):
        return "two packets share a timestamp"
    if reordered_avi:
        return "AVI does not store in which order frames are shown"
    if not ordered:
        return "its codec reorders frames but its timestamps do not"
    return ""


def _restarts(pts: np.ndarray, flags: dict[str, np.ndarray], new_sets: bool) -> tuple[np.ndarray, str]:
    """Finds where decoding can start afresh, and what rules leaving packets out altogether."""
    if not flags["restart"][0]:
        return np.zeros(0, np.int64), "it does not begin with a picture that stands alone"
    wanted = flags["restart"].copy()
    if new_sets:
        # The stream changes its headers: a start needs its own, and none may hide in a packet that could be left out.
        wanted &= flags["all"]
        wanted[0] = True
        if (flags["sets"] & ~wanted).any():
            return np.zeros(0, np.int64), "its headers change between its key frames"
    highest_before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]])
    lowest_after = np.minimum.accumulate(pts[::-1])[::-1]
    return np.flatnonzero(wanted & (highest_before < lowest_after)), ""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become the picture as displayed: transposed first, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False


def orientation(frame: Any) -> Orientation:
    """Reads how a frame is to be turned (a phone's video is stored as the sensor lies).

    Reading it ties the frame into a reference cycle (PyAV's side data), which keeps its memory until the garbage
    collector comes by: ask once for a stream, not for each of its frames.

    The display matrix maps a stored point (x, y) to (a x + c y, b x + d y); see FFmpeg's `libavutil/display.h`.

    Args:
        frame: A decoded PyAV frame.

    Returns:
        The nearest multiple of a quarter turn, with mirroring.
    """
    if len(frame.side_data) == 0:
        return Orientation()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, b < 0, c < 0)
    return Orientation(False, d < 0, a < 0)


def oriented(pixels: np.ndarray, how: Orientation) -> np.ndarray:
    """Turns pixels to how they are displayed; a view, not a copy.

    Args:
        pixels: H x W or H x W x C.
        how: From `orientation`.
    """
    if how.transposed:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if how.upside_down else 1, :: -1 if how.mirrored else 1]
