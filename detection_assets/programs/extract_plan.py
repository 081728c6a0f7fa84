"""Which packets of a video have to be decoded to get the wanted frames, and how that work is cut into parts.

Between two restarts (see `domain.video_timeline`) a wanted frame needs the reference pictures that come before it in
decoding order, and nothing else: other disposable pictures, and everything after the last wanted frame, stay out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection_assets.domain.sampling import Sampling, choose
from detection_assets.domain.video_timeline import NO_PTS, Timeline

MIN_PART = 100
"""A part decodes at least so many packets: opening the file again has to pay."""

MAX_PART = 2_000
"""And at most about so many, so that progress shows and no worker is left alone with a long rest."""


@dataclass(frozen=True)
class Part:
    """A stretch of a video that begins at a restart, with all that decoding it takes.

    Attributes:
        first: Position of its first packet in the file.
        seek_ticks: Where to seek for it.
        pts: Timestamp of each of its packets, in decoding order.
        send: Which packets go to the decoder.
        reference: Which packets others are predicted from.
        shown: Which packets give a frame that is shown.
        runs: Positions in `pts` where decoding restarts, ascending, the first one 0, and the number of packets last.
        wanted: Index (place in display order) by timestamp, in display order.
    """

    first: int
    seek_ticks: int
    pts: np.ndarray
    send: np.ndarray
    reference: np.ndarray
    shown: np.ndarray
    runs: np.ndarray
    wanted: dict[int, int]


def plan(timeline: Timeline, sampling: Sampling, parts: int = 1) -> list[Part]:
    """Plans the decoding of a video for which leaving packets out is proven safe.

    Args:
        timeline: A timeline without a doubt.
        sampling: By rate or by key frames.
        parts: Into how many parts of about equal work to cut it; fewer where restarts or work are too few.

    Returns:
        Parts in order; none if no frame is wanted.
    """
    display = timeline.display
    keys = np.isin(display, timeline.pts[timeline.key])
    chosen = choose(display, keys, sampling, timeline.time_base)
    if not len(chosen):
        return []
    ticks = display[chosen]
    wanted = np.isin(timeline.pts, ticks)
    send = _needed(timeline, wanted)
    bounds = _bounds(timeline, send, parts)
    result: list[Part] = []
    for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if not wanted[first:end].any():
            continue
        here = timeline.restarts[(timeline.restarts >= first) & (timeline.restarts < end)]
        mine = (ticks >= timeline.pts[first:end].min()) & (ticks <= timeline.pts[first:end].max())
        seek = int(timeline.dts[first])
        result.append(
            Part(
                first=first,
                seek_ticks=int(timeline.pts[first]) if seek == NO_PTS else seek,
                pts=timeline.pts[first:end],
                send=send[first:end],
                reference=timeline.reference[first:end],
                shown=timeline.shown[first:end],
                runs=np.append(here - first, end - first),
                wanted=dict(zip(ticks[mine].tolist(), chosen[mine].tolist(), strict=True)),
            )
        )
    return result


def _needed(timeline: Timeline, wanted: np.ndarray) -> np.ndarray:
    """Wanted packets, and the reference packets before the last wanted one of the same run."""
    count = len(wanted)
    run = np.cumsum(np.isin(np.arange(count), timeline.restarts)) - 1
    last = np.full(run[-1] + 1, -1, np.int64)
    places = np.flatnonzero(wanted)
    np.maximum.at(last, run[places], places)
    return wanted | (timeline.reference & (np.arange(count) < last[run]))


def _bounds(timeline: Timeline, send: np.ndarray, parts: int) -> np.ndarray:
    """Cuts at restarts so that the parts take about equally long, by packets and bytes to decode."""
    count = len(send)
    sent = int(send.sum())
    parts = max(1, min(max(parts, sent // MAX_PART), sent // MIN_PART))
    mean = float(timeline.size[send].mean()) or 1.0
    work = np.cumsum(np.where(send, 1.0 + timeline.size / mean, 0.0))
    before = work[timeline.restarts] - np.where(send, 1.0 + timeline.size / mean, 0.0)[timeline.restarts]
    targets = work[-1] * np.arange(1, parts) / parts
    cuts = timeline.restarts[[int(np.abs(before - target).argmin()) for target in targets]] if parts > 1 else []
    return np.unique(np.concatenate([[0], np.asarray(cuts, np.int64), [count]])).astype(np.int64)
