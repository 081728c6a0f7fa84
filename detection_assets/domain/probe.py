"""What a video is, found out cheaply: packets are counted, and decoded only until it is known that they decode."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import av.error

from detection_assets.domain.video_images import PictureError, image_names, read_size
from detection_assets.domain.video_timeline import Timeline, VideoError, open_video, orientation, read_timeline

KINDS = ("video", "images")

_CHUNK = 1 << 20
_TRIES = 300
_NAMED = 3


def probe(path: Path, kind: str) -> dict[str, Any]:
    """Finds out what a video is, and whether it can be used.

    Args:
        path: A local video file (`video`) or a folder whose images are the frames (`images`; its sub-folders are not).
        kind: `video` or `images`.

    Returns:
        `codec` (str or None), `fps` and `duration_s` (float or None), `width` and `height` (as displayed, int or None),
        `frames_declared` (by the header; None if it does not say), `frames_decodable`, `bytes`, `sha256` and `problem`:
        None, or what is wrong, where, and what to do. It can be used, for all problems, if `frames_decodable` is not 0.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"{path.name}: kind {kind!r} is unknown; use {' or '.join(KINDS)}")
    found: dict[str, Any] = {
        "codec": None,
        "fps": None,
        "duration_s": None,
        "width": None,
        "height": None,
        "frames_declared": None,
        "frames_decodable": 0,
        "bytes": 0,
        "sha256": "",
        "problem": None,
    }
    try:
        found |= _video(path) if kind == "video" else _images(path)
        if kind == "video":
            found |= digest(path)
    except (VideoError, PictureError) as error:
        found["problem"] = f"{path.name}: {error}"
        if kind == "video" and path.is_file():
            found |= digest(path)
    except OSError as error:
        found["problem"] = f"{path.name}: cannot be read ({error.strerror}); add it again"
    return found


def sha256(path: Path, kind: str) -> str:
    """The content hash of a video: of a file's bytes, or of the names and hashes of a folder's images in order.

    Args:
        path: The file or folder.
        kind: `video` or `images`.

    Raises:
        OSError: It cannot be read.
    """
    if kind == "video":
        return str(digest(path)["sha256"])
    whole = hashlib.sha256()
    for name in image_names(path):
        _add(whole, name, str(digest(path / name)["sha256"]))
    return whole.hexdigest()


def digest(path: Path) -> dict[str, Any]:
    """`sha256` and `bytes` of a file, read once, a megabyte at a time."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
            size += len(chunk)
    return {"sha256": hashed.hexdigest(), "bytes": size}


def _add(whole: Any, name: str, hexdigest: str) -> None:
    # A file name cannot hold a zero byte, so no two folders give the same text.
    whole.update(f"{name}\0{hexdigest}\n".encode("utf-8", "surrogateescape"))


def _video(path: Path) -> dict[str, Any]:
    timeline = read_timeline(path)
    decoded, width, height, first_at, why = _try_decoding(path)
    shown = max(int(timeline.shown.sum()) - timeline.broken, 0)
    span = timeline.span_s
    found: dict[str, Any] = {
        "codec": timeline.codec,
        "fps": _fps(timeline),
        "duration_s": span,
        "width": width,
        "height": height,
        "frames_declared": timeline.declared or None,
        "frames_decodable": shown if decoded else 0,
    }
    if not decoded:
        where = f"none of its first {min(shown, _TRIES)} frames" if shown else "there are no frames in it, so none"
        found["problem"] = (
            f"{path.name}: {where} can be decoded ({why or 'no frame came out'}); export it again as H.264"
        )
    elif timeline.missing_s:
        found["problem"] = (
            f"{path.name}: from {span:.3f} s on it is cut off: its header claims {timeline.declared} frames in "
            f"{timeline.declared_s:.3f} s, the file holds {shown}; these are used, copy it again for the rest"
        )
    elif timeline.damage:
        found["problem"] = f"{path.name}: {timeline.damage}; what comes before is used, copy it again for the rest"
    elif timeline.declared > len(timeline.pts):
        found["problem"] = (
            f"{path.name}: its header claims {timeline.declared} frames, {shown} are there; these are used, "
            "export it again if more are expected"
        )
    elif first_at:
        found["problem"] = (
            f"{path.name}: its first {first_at} packets do not decode ({why or 'they begin between key frames'}); "
            "the rest is used"
        )
        found["frames_decodable"] = max(shown - first_at, 1)
    return found


def _fps(timeline: Timeline) -> float | None:
    """Frames a second as measured where timestamps allow, else as the container states it."""
    ticks = timeline.display
    if len(ticks) > 1:
        return float((len(ticks) - 1) / ((int(ticks[-1]) - int(ticks[0])) * timeline.time_base))
    return timeline.fps or None


def _try_decoding(path: Path) -> tuple[bool, int, int, int, str]:
    """Decodes until the first sound frame: whether there is one, its size, packets failed before, and a complaint."""
    why, failed, sent = "", 0, 0
    with open_video(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        width, height = context.width, context.height
        try:
            for packet in container.demux(stream):
                try:
                    frames = context.decode(packet if packet.size else None)
                except av.error.EOFError:
                    frames = []
                except av.error.FFmpegError as error:
                    frames, failed, why = [], failed + 1, why or (error.strerror or str(error))
                for frame in frames:
                    width, height = frame.width, frame.height
                    if not frame.is_corrupt:
                        if orientation(frame).transposed:
                            width, height = height, width
                        return True, width, height, failed, why
                sent += 1
                if sent > _TRIES:
                    break
        except av.error.FFmpegError as error:
            why = why or (error.strerror or str(error))
    return False, width, height, failed, why


def _images(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise VideoError("it is not a folder; add a folder of images, or say that it is a video")
    names = image_names(path)
    if not names:
        raise VideoError("there are no images in the folder (its sub-folders are not part of it); add some")
    sizes, formats = Counter[tuple[int, int]](), Counter[str]()
    whole, total, bad = hashlib.sha256(), 0, list[str]()
    for name in names:
        data = (path / name).read_bytes()
        total += len(data)
        _add(whole, name, hashlib.sha256(data).hexdigest())
        try:
            width, height, kind = read_size(data)
        except PictureError as error:
            bad.append(f"{name}: {error}")
            continue
        sizes[width, height] += 1
        formats[kind.lower()] += 1
    (width, height) = sizes.most_common(1)[0][0] if sizes else (None, None)
    problem = None
    if bad:
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        rest = "the rest is used" if sizes else "nothing is left"
        problem = f"{path.name}: {'; '.join(bad[:_NAMED])}{more}; {rest}, replace or remove them"
    return {
        "codec": "+".join(sorted(formats)) or None,
        "width": width,
        "height": height,
        "frames_declared": len(names),
        "frames_decodable": sum(sizes.values()),
        "bytes": total,
        "sha256": whole.hexdigest(),
        "problem": problem,
    }
