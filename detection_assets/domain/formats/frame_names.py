"""What annotators call a frame, and which frame of a video, or image of a folder, they mean by it.

The rule, for the video `store-1/cam/clip.mp4`:

- **Folders** in the name must lead to the video: `cam/`, `store-1/cam/`, `lake/videos/store-1/cam/`, or those followed
  by `clip/`. Words that every data set has (`images`, `train`, `labels` ...) say nothing. Any other folder is another
  video's.
- **The words before the number** must be the video's name (`clip_000030`), its flattened path (`store-1_cam_clip_30`)
  or say nothing (`frame_000030`, `000030`). `clip-b_000030` is a frame of another video, not of `clip`.
- The frame is the **number at the end**. A name without one names no frame, nor does the video's own name.

An image of a folder is found by its file name, else by its stem, else by either without regard to case. Endings that
Roboflow adds (`_jpg.rf.<hash>`) and beginnings that Label Studio adds (`<8 hex digits>-`) are seen through.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from detection_assets.domain.formats.parsed import MAX_INDEX

OTHER, UNKNOWN, AMBIGUOUS = -1, -2, -3
"""Answers that are no frame: one of another video; none at all; several images fit."""

_VIDEO_SUFFIXES = {"mp4", "avi", "mov", "mkv", "webm", "m4v", "mpg", "mpeg", "ts", "wmv", "flv", "h264", "h265", "hevc"}
_FRAME_SUFFIXES = {"jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "heic", "avif", "txt", "xml", "json"}
_FRAME_WORDS = {"frame", "frames", "frm", "f", "img", "image", "pic", "picture"}
_COMMON_FOLDERS = {
    *("image", "images", "img", "imgs", "frame", "frames", "picture", "pictures", "photos", "videos", "jpegimages"),
    *("train", "val", "valid", "validation", "test", "train2017", "val2017"),
    *("label", "labels", "annotations", "data", "dataset", "datasets", "default"),
    *("obj_train_data", "obj_valid_data", "obj_test_data"),
}
_SEPARATORS = re.compile(r"[\W_]+")
_ROBOFLOW = re.compile(r"_(?:jpe?g|png|bmp|webp)\.rf\.[0-9a-z]{16,64}$", re.IGNORECASE)
_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?=.)")


def stem_of(name: str) -> str:
    """A base name without the ending of a picture or label file; other dots belong to the name."""
    head, dot, suffix = name.rpartition(".")
    return head if dot and head and suffix.lower() in _FRAME_SUFFIXES else name


def _parts(path: str) -> list[str]:
    return [part for part in unicodedata.normalize("NFC", path).casefold().split("/") if part]


def without_video_suffix(name: str) -> str:
    """A name without the ending of a video file; any other ending belongs to the name."""
    head, dot, suffix = name.rpartition(".")
    return head if dot and head and suffix.lower() in _VIDEO_SUFFIXES else name


def _tokens(text: str) -> list[str]:
    return [token for token in _SEPARATORS.split(text) if token]


def _ends(whole: Sequence[str], end: Sequence[str]) -> bool:
    return len(end) <= len(whole) and list(whole[len(whole) - len(end) :]) == list(end)


class Names:
    """Understands names of frames for one video.

    Args:
        video: The video's key.
        names: All names to be understood, to see whether Label Studio's beginnings are among them.
    """

    def __init__(self, video: str, names: Iterable[str]) -> None:
        self._path = [without_video_suffix(part) for part in _parts(video)]
        self._tokens = [token for part in self._path for token in _tokens(part)]
        self._stem = self._path[-1] if self._path else ""
        self._stem_tokens = _tokens(self._stem)
        # A beginning of eight digits could be a date, unless its neighbours show that it is one hash of many.
        begins = [match[0] for name in names if (match := _LABEL_STUDIO.match(name.rpartition("/")[2]))]
        self._strip = any(not begin[:8].isdigit() for begin in begins)

    def is_elsewhere(self, name: str) -> bool:
        """Whether the folders in the name lead to another video."""
        folders = _parts(name)[:-1]
        telling = [part for part in folders if part not in _COMMON_FOLDERS]
        return bool(telling) and not self._leads_here(folders) and not self._leads_here(telling)

    def _leads_here(self, folders: list[str]) -> bool:
        plain = [without_video_suffix(part) for part in folders]
        return any(_ends(path, plain) or _ends(plain, path) for path in (self._path, self._path[:-1]) if path)

    def stem(self, name: str) -> str:
        """The base name without ending, and without what Roboflow and Label Studio add."""
        base = unicodedata.normalize("NFC", name.rpartition("/")[2])
        stem = _ROBOFLOW.sub("", stem_of(base))
        return _LABEL_STUDIO.sub("", stem, count=1) if self._strip and _LABEL_STUDIO.match(stem) else stem

    def index(self, name: str) -> int:
        """The number of the video's frame that the name means, or `OTHER`, or `UNKNOWN`."""
        if self.is_elsewhere(name):
            return OTHER
        stem = without_video_suffix(self.stem(name).casefold())
        words = stem.rstrip("0123456789")
        digits = stem[len(words) :]
        if not digits or (stem == self._stem and words):
            return UNKNOWN
        if not self._is_ours(_tokens(words)):
            return OTHER
        return int(digits) if len(digits) < 20 and int(digits) <= MAX_INDEX else UNKNOWN

    def _is_ours(self, words: list[str]) -> bool:
        """Whether the words before the number are the video's name or say nothing."""
        while words:
            long_enough = len(words) >= len(self._stem_tokens)
            if long_enough and _ends(self._tokens, words):
                return True
            if len(self._path) > 1 and _ends(words, self._tokens):
                return True
            if words[-1] not in _FRAME_WORDS and words[-1] not in _VIDEO_SUFFIXES:
                return False
            words = words[:-1]
        return True


class Images:
    """Finds images of a folder by name.

    Args:
        files: File names of the images, relative to the folder.
        names: Understands names for the folder.
    """

    def __init__(self, files: Sequence[str], names: Names) -> None:
        self._names = names
        plain = [unicodedata.normalize("NFC", file) for file in files]
        bases = [file.rpartition("/")[2] for file in plain]
        stems = [stem_of(base) for base in bases]
        self._full = _lookup(plain)
        self._levels = [
            (_lookup(bases), _lookup(stems)),
            (_lookup([base.casefold() for base in bases]), _lookup([stem.casefold() for stem in stems])),
        ]

    def position(self, name: str) -> int:
        """Position of the image that the name means, or `OTHER`, `UNKNOWN` or `AMBIGUOUS`."""
        name = unicodedata.normalize("NFC", name)
        if (found := self._full.get(name, UNKNOWN)) != UNKNOWN:
            return found
        if self._names.is_elsewhere(name):
            return OTHER
        base = name.rpartition("/")[2]
        for stem in dict.fromkeys((stem_of(base), self._names.stem(name))):
            for fold, (bases, stems) in zip((str, str.casefold), self._levels, strict=True):
                for key, lookup in ((base, bases), (stem, stems)):
                    if (found := lookup.get(fold(key), UNKNOWN)) != UNKNOWN:
                        return found
        return UNKNOWN


def _lookup(keys: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for position, key in enumerate(keys):
        found[key] = AMBIGUOUS if key in found else position
    return found
