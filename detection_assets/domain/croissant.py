"""A version of the dataset in MLCommons' Croissant, for whoever has another reader than ours.

The description names what is published, by digest, and repeats none of it: tables stay in the snapshot, pictures where
extraction put them. Addresses are relative to where the description lies, so it moves with the lake. It lies above all
that it names: files that are in no archive are looked for below their description, and many readers refuse `..`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from detection_assets.domain import layout
from detection_assets.domain.snapshot import IMAGES, SIDES, Snapshot
from detection_assets.domain.splitting import SPLITS

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
PARQUET = "application/x-parquet"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"),
            *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}
"""What each word of the description means; it has to hold all of Croissant's own, used or not."""

SPLIT_URLS = {
    "train": "cr:TrainingSplit",
    "val": "cr:ValidationSplit",
    "test": "cr:TestSplit",
}
ERASED = "Frames of a video that was withdrawn were erased from it."
MIME = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "tif": "image/tiff"}
TYPES = {"width": "sc:Integer", "height": "sc:Integer"}
MEANINGS = {
    "frame": "The frame's id: video and position, or folder and file name.",
    "video": "The video's key.",
    "group": "What is never in two splits: store, camera or patient.",
    "file": "Path of the picture below the folder of frames.",
    "width": "Width in pixels.",
    "height": "Height in pixels.",
    "sha256": "SHA-256 of the picture's bytes.",
    "phash": "Perceptual hash, 64 bits in hex.",
    "track": "The object's id along the video; none where nobody told it.",
    "x1": "Left edge, pixels from the left.",
    "y1": "Top edge, pixels from the top.",
    "x2": "Right edge, pixels; x2 - x1 is the width.",
    "y2": "Bottom edge, pixels; y2 - y1 is the height.",
}


@dataclass(frozen=True, slots=True)
class File:
    """A published file.

    Attributes:
        key: Its storage key.
        sha256: Digest of its bytes.
        size: Bytes.
    """

    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a video that frames come from.

    Attributes:
        video: The video's key.
        frames: Version of its extraction: content, sampling and code.
        sha256: Digest of its content; None if it is not known.
        annotations: Version of its annotations; None if it is not known.
    """

    video: str
    frames: str
    sha256: str | None = None
    annotations: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What people say of a dataset, and when it was published.

    Attributes:
        detector: The detector's name.
        description: What it is for, or "".
        owner: Who answers for it, `team:NAME` or an e-mail address; None if nobody said.
        license: An SPDX identifier or an address; None if nobody said.
        published: When, in ISO 8601; None if it is not known.
        code: Version of the code that made it; None if it is not known.
    """

    detector: str
    description: str = ""
    owner: str | None = None
    license: str | None = None
    published: str | None = None
    code: str | None = None

    @classmethod
    def of(cls, detector: str, said: Mapping[str, Any], code: str | None = None) -> About:
        """Of a detector's name, what its file says, and the version of the code."""
        return cls(detector, said.get("description") or "", said.get("owner"), said.get("license"), None, code)


def sources(snapshot: Snapshot, digests: Mapping[str, str], annotations: Mapping[str, str]) -> list[Source]:
    """The videos that a dataset comes from.

    Args:
        snapshot: The dataset.
        digests: SHA-256 by video, as far as it is known.
        annotations: Version of the annotations by video, as far as it is known.

    Returns:
        In order of video and version; a video whose frames are of two extractions comes twice.
    """
    images: Any = snapshot.images
    # frames/<video>/<version>/<attempt>/<picture>, see `layout`.
    version = images["file"].astype(object).map(lambda file: _extraction(str(file)))
    pairs = sorted(set(zip(images["video"], version, strict=True)))
    return [Source(video, made, digests.get(video), annotations.get(video)) for video, made in pairs]


def _extraction(file: str) -> str:
    parts = file.split("/")
    return parts[-3] if len(parts) >= 3 else ""


def describe(
    snapshot: Snapshot, tables: Mapping[str, File], made_from: Sequence[Source], about: About
) -> dict[str, Any]:
    """The Croissant description of a dataset.

    Args:
        snapshot: The dataset.
        tables: The published files `images.parquet` and `boxes.parquet`.
        made_from: From `sources`.
        about: What people say of it.

    Returns:
        JSON-LD, to lie where `layout.croissant` says.
    """
    meta = snapshot.meta
    notes = [str(note) for note in meta["notes"]]
    limits = ["Groups are divided among the splits: figures on the test split are optimistic."]
    rai = {
        "rai:dataCollection": f"Frames of {meta['videos']} videos in {meta['groups']} groups.",
        "rai:dataPreprocessingProtocol": [
            "Frames are sampled from videos, near-duplicates are dropped; frames that nobody looked at are left out.",
            f"Split by {meta['by']}, " + ", ".join(f"{name} {meta['shares'][name]:g}" for name in SPLITS) + ".",
            *notes,
        ],
        **({"rai:dataLimitations": limits} if meta["optimistic"] else {}),
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{about.detector}-{snapshot.version}",
        "description": (about.description + "\n\n" if about.description else "")
        + f"{meta['images']} annotated images with {meta['boxes']} boxes of {len(meta['classes'])} classes.",
        "version": snapshot.version,
        "keywords": ["object detection", *(str(name) for name in meta["classes"])],
        **({"license": about.license} if about.license else {}),
        **({"datePublished": about.published} if about.published else {}),
        **({"creator": _creator(about.owner)} if about.owner else {}),
        "isBasedOn": [_source(of) for of in made_from],
        **({"creditText": f"Made by detection_dataset, code version {about.code}."} if about.code else {}),
        **rai,
        "distribution": [
            *(_file_object(name, file) for name, file in tables.items()),
            {
                "@type": "cr:FileSet",
                "@id": "pictures",
                "name": "pictures",
                "description": "The pictures; the digest of each stands in images.parquet.",
                "encodingFormat": _formats(snapshot),
                "includes": _patterns(snapshot),
            },
        ],
        "recordSet": [_splits(), _classes(meta["classes"]), _images(), _boxes(), _pictures()],
    }


def without(described: Mapping[str, Any], video: str, files: Mapping[str, File]) -> dict[str, Any]:
    """A description as it is once a video was erased from its dataset; the same if it tells nothing of the video.

    Args:
        described: From `describe`.
        video: The video.
        files: The dataset's tables as they are published now.
    """
    below = _pattern(f"{layout.FRAMES}/{video}/")

    def is_its(pattern: str) -> bool:
        # frames/<video>/<version>/<attempt>/*: what has more parts is a video whose path begins with this one's.
        return pattern.startswith(below) and pattern.removeprefix(below).count("/") == 2

    def part(of: Mapping[str, Any]) -> dict[str, Any]:
        if of["@id"] in files:
            return {**of, **_file_object(of["@id"], files[of["@id"]])}
        return {**of, "includes": [one for one in of["includes"] if not is_its(one)]} if "includes" in of else {**of}

    told = {
        **described,
        "isBasedOn": [one for one in described["isBasedOn"] if one["name"] != video],
        "distribution": [part(of) for of in described["distribution"]],
    }
    said = described.get("rai:dataPreprocessingProtocol", [])
    if told != described and ERASED not in said:
        told["rai:dataPreprocessingProtocol"] = [*said, ERASED]
    return told


def _formats(snapshot: Snapshot) -> list[str]:
    suffixes = {str(file).rpartition(".")[2].lower() for file in snapshot.images["file"]}
    return sorted({MIME.get(suffix, f"image/{suffix}") for suffix in suffixes})


def _patterns(snapshot: Snapshot) -> list[str]:
    """A pattern for each folder that pictures of the dataset lie in."""
    folders = sorted({str(file).rpartition("/")[0] for file in snapshot.images["file"]})
    return [_pattern(f"{layout.FRAMES}/{folder}") + "/*" for folder in folders]


def _pattern(path: str) -> str:
    # Brackets are patterns, too; a name may hold some.
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


def _file_object(name: str, file: File) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": file.key,
        "contentSize": f"{file.size} B",
        "encodingFormat": PARQUET,
        "sha256": file.sha256,
    }


def _creator(owner: str) -> dict[str, str]:
    kind, _, name = owner.partition(":")
    if kind == "team" and name:
        return {"@type": "sc:Organization", "name": name}
    return {"@type": "sc:Person", "name": owner, "email": owner}


def _source(of: Source) -> dict[str, Any]:
    """A video, or a folder of images, as a thing that the dataset is based on."""
    told = {"frames": of.frames, "annotations": of.annotations}
    return {
        "@type": "sc:CreativeWork",
        "name": of.video,
        "url": quote(layout.video(of.video)),
        **({"sha256": of.sha256} if of.sha256 else {}),
        "identifier": [
            {"@type": "sc:PropertyValue", "propertyID": f"{what} version", "value": value}
            for what, value in told.items()
            if value
        ],
    }


def _column(table: str, name: str) -> dict[str, Any]:
    return {"fileObject": {"@id": table}, "extract": {"column": name}}


def _field(of: str, name: str, *, kind: str | None = None, table: str | None = None, **more: Any) -> dict[str, Any]:
    last = name.rpartition("/")[2]
    return {
        "@type": "cr:Field",
        "@id": f"{of}/{name}",
        "name": last,
        **({"description": MEANINGS[last]} if last in MEANINGS else {}),
        "dataType": kind or TYPES.get(last, "sc:Text"),
        **({"source": _column(table, last)} if table else {}),
        **more,
    }


def _record_set(name: str, key: str | None, fields: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        **({"key": {"@id": f"{name}/{key}"}} if key else {}),
        "field": fields,
        **more,
    }


def _splits() -> dict[str, Any]:
    fields = [_field("splits", "name"), _field("splits", "url", kind="sc:URL")]
    data = [{"splits/name": name, "splits/url": SPLIT_URLS[name]} for name in SPLITS]
    return _record_set("splits", "name", fields, dataType="cr:Split", data=data)


def _classes(classes: Sequence[str]) -> dict[str, Any]:
    fields = [_field("classes", "name"), _field("classes", "index", kind="sc:Integer")]
    data = [{"classes/name": str(name), "classes/index": index} for index, name in enumerate(classes)]
    return _record_set("classes", "name", fields, dataType="sc:Enumeration", data=data)


def _images() -> dict[str, Any]:
    fields = [_field("images", name, table="images.parquet") for name in IMAGES]
    fields[IMAGES.index("split")]["references"] = {"field": {"@id": "splits/name"}}
    return _record_set("images", "frame", fields, description="A record an image.")


def _pictures() -> dict[str, Any]:
    """The pictures, each by the file that its image names.

    The reference goes from the picture to the image, not the other way: a path of a file is no text to MLCommons'
    library before a transformation, and it transforms what refers alone.
    """
    path = {
        "fileSet": {"@id": "pictures"},
        "extract": {"fileProperty": "fullpath"},
        "transform": {"regex": f"^{layout.FRAMES}/(.+)$"},
    }
    content = {"fileSet": {"@id": "pictures"}, "extract": {"fileProperty": "content"}}
    fields = [
        _field("contents", "file", source=path, references=_column("images.parquet", "file")),
        _field("contents", "picture", kind="sc:ImageObject", source=content),
    ]
    told = "A record a picture of the folders that images are in; those that no image names are not of the dataset."
    return _record_set("contents", "file", fields, description=told)


def _boxes() -> dict[str, Any]:
    table = "boxes.parquet"
    sides = [_field("boxes", f"box/{name}", kind="sc:Float", table=table) for name in SIDES]
    box = _field("boxes", "box", kind="cr:BoundingBox", subField=sides)
    box["description"] = "Left, top, right and bottom edge in pixels (XYXY)."
    fields = [
        _field("boxes", "frame", table=table, references=_column("images.parquet", "frame")),
        _field("boxes", "class", table=table, references={"field": {"@id": "classes/name"}}),
        box,
        _field("boxes", "track", table=table),
    ]
    return _record_set("boxes", None, fields, description="A record a box; an image without a box has none.")
