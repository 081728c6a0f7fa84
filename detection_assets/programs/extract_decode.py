"""Decodes the wanted frames of a video: planned, leaving out what the stream proves unneeded, or one after the other.

Both ways give the same frames to the pixel. Memory does not grow with the video: a frame is handed on as soon as it is
known that nothing it was predicted from is damaged.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from detection_assets.domain.sampling import (
    SCENE_SIZE,
    RateGrid,
    Sampling,
    SceneCut,
    evenly,
    grid_instants,
    missing_instants,
)
from detection_assets.domain.video_timeline import NO_PTS, Timeline, open_video
from detection_assets.programs.extract_plan import Part


class NotAsPromisedError(Exception):
    """A stream broke what its headers promise, so packets of it must not be left out."""


@dataclass
class Tally:
    """What a decoder did: frames that came out, and the first complaint it made."""

    decoded: int = 0
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """A wanted frame.

    Attributes:
        index: Place in display order.
        pts_s: Presentation timestamp, seconds.
        frame: The decoded frame; None if there is none.
        problem: What is wrong with it; empty if nothing is.
    """

    index: int
    pts_s: float
    frame: Any
    problem: str = ""


def seconds(ticks: int, time_base: Fraction) -> float:
    """The exact time of a timestamp, rounded once."""
    return float(ticks * time_base)


def decode_part(path: Path, part: Part, time_base: Fraction, threads: int, tally: Tally) -> Iterator[Shot]:
    """Decodes the wanted frames of one part of a video.

    Args:
        path: The video.
        part: From `extract_plan.plan`.
        time_base: Seconds of a tick.
        threads: Threads for the decoder.
        tally: Is added to.

    Yields:
        Each wanted frame, in display order, those that do not decode included.

    Raises:
        NotAsPromisedError: The stream is not what its headers say; decode it with `decode_all`.
    """
    with open_video(path) as container:
        context = container.streams.video[0].codec_context
        _set_threads(context, threads)
        packets = _packets(container, part)
        ticks = list(part.wanted)
        at = 0
        for begin, end in zip(part.runs[:-1].tolist(), part.runs[1:].tolist(), strict=True):
            until = at
            highest = int(part.pts[begin:end].max())
            while until < len(ticks) and ticks[until] <= highest:
                until += 1
            run = _Run(part, ticks[at:until], time_base, tally)
            at = until
            for place in range(begin, end):
                packet = next(packets, None)
                if packet is None:
                    # The file ended in damage when the timeline was read; what is missing is told by the run.
                    break
                if packet.pts != part.pts[place]:
                    raise NotAsPromisedError(f"packet {part.first + place} has another timestamp than before")
                if part.send[place]:
                    run.sent(place)
                    yield from run.received(_decode(context, packet, tally))
            if until > at or run.busy:
                yield from run.received(_decode(context, None, tally))
                context.flush_buffers()
            yield from run.finished()


class _Run:
    """Follows the frames between two restarts: which are due, which failed, which were predicted from damage."""

    def __init__(self, part: Part, ticks: list[int], time_base: Fraction, tally: Tally):
        self._part, self._time_base, self._tally = part, time_base, tally
        self._due = ticks
        self._due_at = 0
        self._outstanding: dict[int, int] = {}
        self._held: list[tuple[int, int, Any]] = []
        self._last: int | None = None
        self._damaged_from: int | None = None
        self.busy = False

    def sent(self, place: int) -> None:
        self.busy = True
        if self._part.shown[place]:
            self._outstanding[int(self._part.pts[place])] = place

    def received(self, frames: list[Any]) -> Iterator[Shot]:
        for frame in frames:
            tick = NO_PTS if frame.pts is None else int(frame.pts)
            place = self._outstanding.pop(tick, None)
            if place is None or (self._last is not None and tick <= self._last):
                raise NotAsPromisedError("frames come out in another order than their timestamps")
            self._last = tick
            # Frames come out in display order: what should have come before this one never will.
            for late in [one for one in self._outstanding if one < tick]:
                self._failed(self._outstanding.pop(late))
            if frame.is_corrupt:
                self._failed(place)
            if tick in self._part.wanted:
                self._held.append((place, tick, frame))
        yield from self._release()

    def _failed(self, place: int) -> None:
        if self._part.reference[place] and (self._damaged_from is None or place < self._damaged_from):
            self._damaged_from = place

    def _release(self) -> Iterator[Shot]:
        """Hands on the frames of which everything sent before them is accounted for."""
        while self._held and (not self._outstanding or min(self._outstanding.values()) > self._held[0][0]):
            place, tick, frame = self._held.pop(0)
            yield from self._lost(before=tick)
            self._due_at += 1
            problem = ""
            if frame.is_corrupt:
                problem = "the decoder had to guess parts of it"
            elif self._damaged_from is not None and self._damaged_from < place:
                problem = "it is predicted from a damaged frame"
            yield Shot(self._part.wanted[tick], seconds(tick, self._time_base), frame, problem)

    def _lost(self, before: int | None) -> Iterator[Shot]:
        while self._due_at < len(self._due) and (before is None or self._due[self._due_at] < before):
            tick = self._due[self._due_at]
            self._due_at += 1
            why = self._tally.complaint or "the decoder gives no frame for it"
            yield Shot(self._part.wanted[tick], seconds(tick, self._time_base), None, why)

    def finished(self) -> Iterator[Shot]:
        for place in self._outstanding.values():
            self._failed(place)
        self._outstanding.clear()
        yield from self._release()
        yield from self._lost(before=None)


def _packets(container: Any, part: Part) -> Iterator[Any]:
    """Packets from the part's first one on: by seeking where the container can, else by reading up to it."""
    stream = container.streams.video[0]
    if part.first:
        container.seek(part.seek_ticks, stream=stream, backward=True, any_frame=False)
        for packet in _demux(container, stream):
            if packet.pts == part.pts[0]:
                yield packet
                yield from _demux(container, stream)
                return
            if packet.dts is not None and packet.dts > part.seek_ticks:
                break
        raise NotAsPromisedError("the container does not find its own key frame")
    yield from _demux(container, stream)


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError:
        # Damage ends the file here; the timeline, read the same way, has noted it.
        return


def _decode(context: Any, packet: Any, tally: Tally) -> list[Any]:
    """Decodes a packet (None for what is left in the decoder); a complaint is noted, the frame will be missed."""
    frames: list[Any] = []
    try:
        frames = context.decode(packet)
    except av.error.EOFError:
        pass
    except av.error.FFmpegError as error:
        tally.complaint = tally.complaint or (error.strerror or str(error))
    tally.decoded += len(frames)
    return frames


def _set_threads(context: Any, threads: int) -> None:
    context.thread_count = threads
    context.thread_type = "AUTO"


def decode_all(path: Path, timeline: Timeline, sampling: Sampling, threads: int, tally: Tally) -> Iterator[Shot]:
    """Decodes a video from beginning to end and picks the wanted frames as they come.

    Args:
        path: The video.
        timeline: Its timeline; here it serves for what must be known beforehand, such as how long the video is.
        sampling: Any method.
        threads: Threads for the decoder.
        tally: Is added to.

    Yields:
        Each wanted frame, in display order, those that do not decode included.
    """
    wants = _Picker(timeline, sampling)
    damaged = False
    has_restarts = int(timeline.key.sum()) > 1
    for index, (ticks, frame) in enumerate(_in_order(path, timeline, threads, tally)):
        problem = ""
        if frame is None:
            damaged, problem = True, tally.complaint
        elif frame.is_corrupt:
            damaged, problem = True, "the decoder had to guess parts of it"
        elif frame.key_frame:
            damaged = False
        elif damaged and has_restarts:
            problem = "it follows a damaged frame, with no key frame between"
        if wants(ticks, frame):
            yield Shot(index, seconds(ticks, timeline.time_base), frame, problem)


def _in_order(path: Path, timeline: Timeline, threads: int, tally: Tally) -> Iterator[tuple[int, Any]]:
    """Timestamp and frame of all frames in display order; None for a frame whose packet does not decode."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        _set_threads(context, threads)
        clock = _Clock(timeline)
        failed: list[int] = []
        packets = _demux(container, stream)
        while True:
            packet = next(packets, None)
            before = tally.complaint
            tally.complaint = ""
            frames = _decode(context, packet, tally)
            if tally.complaint and packet is not None and packet.pts is not None and not packet.is_discard:
                heapq.heappush(failed, packet.pts)
            tally.complaint = before or tally.complaint
            for frame in frames:
                ticks = clock.ticks(frame)
                while failed and failed[0] < ticks:
                    yield heapq.heappop(failed), None
                yield ticks, frame
            if packet is None:
                break
        while failed:
            yield heapq.heappop(failed), None


class _Clock:
    """The timestamp of each frame; for containers that have none or wrong ones, the best that can be had.

    Where timestamps follow the order of storing (H.264 with B-frames in AVI), the n-th frame shown takes the n-th slot.
    Elsewhere, as FFmpeg does: presentation timestamps, unless they have gone backwards more often than decoding ones.
    Without either, frames are as far apart as the container's frame rate says.
    """

    def __init__(self, timeline: Timeline):
        rate = Fraction(timeline.fps or 25).limit_denominator(100_000)
        self._step = max(1, round(1 / rate / timeline.time_base))
        stored = timeline.dts[timeline.shown & (timeline.dts != NO_PTS)]
        self._slots = None if timeline.ordered or not len(stored) else iter(np.sort(stored).tolist())
        self._pts_faults = self._dts_faults = 0
        self._last_pts = self._last_dts = self._last = -(2**62)

    def ticks(self, frame: Any) -> int:
        """The next frame's timestamp; never less than the one before."""
        if self._slots is not None:
            self._last = next(self._slots, self._last + self._step)
            return self._last
        if frame.dts is not None:
            self._dts_faults += frame.dts <= self._last_dts
            self._last_dts = frame.dts
        if frame.pts is not None:
            self._pts_faults += frame.pts <= self._last_pts
            self._last_pts = frame.pts
        if frame.pts is not None and (self._pts_faults <= self._dts_faults or frame.dts is None):
            ticks = frame.pts
        elif frame.dts is not None:
            ticks = frame.dts
        else:
            ticks = self._last + self._step if self._last > -(2**62) else 0
        self._last = max(ticks, self._last)
        return self._last


class _Picker:
    """Decides about one frame after the other."""

    def __init__(self, timeline: Timeline, sampling: Sampling):
        self._method = sampling.method
        if self._method == "rate":
            ticks = timeline.display
            span = int(ticks[-1] - ticks[0]) * timeline.time_base if len(ticks) else Fraction(timeline.span_s)
            instants = grid_instants(span, sampling.exact_rate, sampling.max_frames)
            self._grid = RateGrid(sampling.exact_rate, timeline.time_base, instants)
        elif self._method == "keyframes":
            self._keys = 0
            self._chosen = set(evenly(int((timeline.key & timeline.shown).sum()), sampling.max_frames))
        else:
            self._scene = SceneCut(sampling.scene_threshold, timeline.time_base)
            self._small = VideoReformatter()

    def __call__(self, ticks: int, frame: Any) -> bool:
        if self._method == "rate":
            return self._grid.wants(ticks)
        if frame is None:
            return False
        if self._method == "keyframes":
            self._keys += frame.key_frame
            return frame.key_frame and self._keys - 1 in self._chosen
        small = self._small.reformat(frame, *SCENE_SIZE, "gray8", interpolation="AREA", threads=1)
        return self._scene.wants(ticks, np.asarray(small.to_ndarray()))


def truncated(timeline: Timeline, sampling: Sampling, after: int) -> Iterator[Shot]:
    """The wanted frames that a video's header claims and that its file does not hold.

    Args:
        timeline: The video's.
        sampling: Its sampling.
        after: Index of the last frame that is known; the missing ones are numbered after it, by the frame rate.

    Yields:
        A shot without a frame for each; its time is the instant that it should have served.
    """
    if not timeline.missing_s or sampling.max_frames is not None:
        return
    display = timeline.display
    start = seconds(int(display[0]), timeline.time_base) if len(display) else 0.0
    rate = timeline.declared / timeline.declared_s
    why = f"missing, the file holds {timeline.span_s:.3f} s of the {timeline.declared_s:.3f} s that its header claims"
    for instant in missing_instants(sampling, timeline.span_s, timeline.declared_s):
        after = max(after + 1, round(instant * rate))
        yield Shot(after, start + instant, None, why)
