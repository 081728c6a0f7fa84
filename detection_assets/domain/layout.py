"""The only place that spells storage keys.

Keys are relative to a detector's own root in the lake (`<lake>/<detector>/`), with `/` between parts:

    videos/<video key>                        what users put: a file, or a folder of images
    annotations/<...>                         what annotators hand over
    frames/<video key>/<version>/             extracted frames, published once per version
    problems/<digest>.csv                     reports of what was wrong with annotations
    datasets/<ds-...>/                        dataset snapshots
    catalogue/<ds-...>/<table>/<digest>/      how a platform's catalogue of data reads a table of a snapshot
    <ds-...>.croissant.json                   a snapshot's description in Croissant
    cards/<model>/<version>-<digest>/         a registered model's card and bill of materials
    weights/<version>/  evaluations/<version>/
    predictions/<video key>/<version>/        what a model found on a video's frames
    looks/<video key>/<version>/              what models say of pictures that nobody has labelled, and how these look
    captures/<day>/<hour>/                    requests that the server kept: parts of JSON lines, and pictures
    profiles/<ds-...>/<version>/              what a dataset's pictures look like
    reports/<day>/<version>/                  drift reports
    label_requests/<lb-...>/                  batches of pictures that annotators are asked about
    labeling/<lb-...>/                        what became of a batch: where it was handed to, and what is in
    label_work/<lb-...>/<tool>/               a tool's own of a batch, where it works in the lake
    tables/<asset>/<partition>/               the assets' tables, by content hash, and a pointer to today's
    rollout/                                  what the endpoint was told: a log without gaps, and where it ends
    endpoint/                                 a managed endpoint: what its servers are told, load and have counted
    overrides/<weights version>.json          who let weights pass whose gates failed, and why
    withdrawn/<video>.json                    who withdrew a video, and why; what was derived from it then
    withdrawn/digests/<sha256>                content that is not taken in again, under whatever name
    withdrawn/frames/<video>.json             by what its frames are known again, where somebody copied them
    withdrawn/erasures/<video>.json           how far the erasing of a video's data is planned, while it goes on
    withdrawn/tombstones/<video>.json         what was erased of it, when and by whom
    withdrawn/gone/<key>.json                 leads from an object that was erased to why, and to what is left of it
    withdrawn/overrides/<version>-<digest>/<video>.json  who lets it serve although it learned from the video
    known/                                    what was taken in already, told by the names of empty objects
    jobs/<step>/<attempt>/                    a managed job's order, messages and receipt, until its step is published;
                                              a batch job's model, list of pictures and answers likewise
    jobs/<step>/checkpoint/                   what an interrupted job leaves for the next
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

VIDEOS = "videos"
ANNOTATIONS = "annotations"
FRAMES = "frames"
CAPTURES = "captures"
EVALUATIONS = "evaluations"
LABEL_REQUESTS = "label_requests"
LABELING = "labeling"
LINEAGE = "lineage"
"""What is written beside versions, so that a question about one need not read them all."""
PROBLEMS = "problems"
CARDS = "cards"
MANIFEST = "manifest.json"
WITHDRAWN = "withdrawn"
ROLLOUT = "rollout"
ROLLOUT_STATE = f"{ROLLOUT}/state.json"
"""The entry of the endpoint's log that was the last when this was written; there may be later ones."""
ROLLOUT_PULSE = f"{ROLLOUT}/pulse.json"
"""Who drives the open rollout, and when that was last so."""
ENDPOINT = "endpoint"
ENDPOINT_ORDERS = f"{ENDPOINT}/orders.json"
"""What a managed endpoint's servers are to do beside answering: keep requests, show them to another slot."""
ENDPOINT_ASKED = f"{ENDPOINT}/asked.json"
"""Which configuration the service was asked for last, and when the traffic was set."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LONGEST = 900
"""Characters of a video's quoted path: S3 takes keys of 1024 bytes, which name the lake and the table, too."""


class Stored(NamedTuple):
    """An object as a listing shows it.

    Attributes:
        key: Its key.
        size: Bytes.
        tag: Changes when its content does.
        written: When it was written, epoch seconds; 0 where nobody asked.
    """

    key: str
    size: int
    tag: str
    written: float = 0.0


def video_key_problem(video: str) -> str | None:
    """Says why a path cannot be a video key, or None if it can.

    A key is also a Dagster partition key, which may hold neither control characters nor three dots in a row.
    """
    if "..." in video:
        return "its path has three dots in a row, which a partition key cannot hold; rename it"
    if _CONTROL.search(video):
        return "its path has a control character; rename it"
    if not {"", ".", ".."}.isdisjoint(video.split("/")):
        return "its path has an empty part, or one of dots alone, which not every store can hold; rename it"
    if 12 * len(video) > LONGEST and len(_quoted(video)) > LONGEST:  # a character is up to four bytes, each as %00
        return f"its path is longer than {LONGEST} characters, of which all but plain ones count as several; rename it"
    if "#" in video:
        return "its path has a '#', which separates a video from its frame; rename it"
    return None


def hash_int(text: str) -> int:
    """128 bits of a text's BLAKE2 digest, as a number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def video(key: str) -> str:
    """Where a video's file or folder lies."""
    return f"{VIDEOS}/{key}"


def frames(video_key: str, version: str) -> str:
    """Where one version of a video's extracted frames is published."""
    return f"{FRAMES}/{video_key}/{version}"


def problem_report(sha256: str) -> str:
    """Where a report of what was wrong with annotations lies, by the hash of its content."""
    return f"{PROBLEMS}/{sha256[:32]}.csv"


def dataset(version: str) -> str:
    """Where a dataset snapshot is published."""
    return f"datasets/{version}"


def croissant(version: str) -> str:
    """Where a dataset's Croissant description lies: apart from its snapshot, so an earlier one can get one, too."""
    return f"{version}.croissant.json"


def model_card(name: str, version: str, sha256: str) -> str:
    """Where the card and the bill of materials of a registered version are published.

    With the model's digest: a lake that is copied meets another registry, which counts versions from 1 as well.
    """
    return f"{CARDS}/{_quoted(name)}/{_quoted(version)}-{sha256[:12]}"


def catalogue(version: str, table: str, digest: str) -> str:
    """Where it is written how a platform's catalogue reads a table of a dataset: one place for each way to say it."""
    return f"catalogue/{version}/{table}/{digest}"


def weights(version: str) -> str:
    """Where the outcome of one training is published."""
    return f"weights/{version}"


def evaluation(version: str) -> str:
    """Where the outcome of one evaluation is published."""
    return f"{EVALUATIONS}/{version}"


def rollout_entry(number: int) -> str:
    """Where one entry of the endpoint's log lies."""
    return f"{ROLLOUT}/history/{number:08d}.json"


def deployment(name: str) -> str:
    """Where lies what the servers of one deployment load: the model, and what is known about it."""
    return f"{ENDPOINT}/models/{name}"


def reports(name: str) -> str:
    """Below which each server of a deployment tells what it has counted."""
    return f"{ENDPOINT}/reports/{name}"


def override(weights_version: str) -> str:
    """Where it is written who let weights pass whose gates failed."""
    return f"overrides/{weights_version}.json"


def withdrawn(video_key: str) -> str:
    """Where it is written who withdrew a video."""
    return f"{WITHDRAWN}/{_quoted(video_key)}.json"


def withdrawn_video(key: str) -> str | None:
    """The video that a key directly in `withdrawn/` is about; None if it is about none."""
    name = key.removeprefix(f"{WITHDRAWN}/")
    return unquote(name.removesuffix(".json")) if name.endswith(".json") and "/" not in name else None


def withdrawn_digest(sha256: str) -> str:
    """Where it is remembered that content of some digest is not to be taken in again."""
    return f"{WITHDRAWN}/digests/{sha256}"


def withdrawn_frames(video_key: str = "") -> str:
    """Where it is remembered by what the frames of a video are known again; without one, the folder of all these."""
    return f"{WITHDRAWN}/frames/{_quoted(video_key)}.json" if video_key else f"{WITHDRAWN}/frames"


def erasure(video_key: str) -> str:
    """Where the plan of an erasure lies while it goes on."""
    return f"{WITHDRAWN}/erasures/{_quoted(video_key)}.json"


def tombstone(video_key: str) -> str:
    """Where it is written what was erased of a video."""
    return f"{WITHDRAWN}/tombstones/{_quoted(video_key)}.json"


def gone(key: str) -> str:
    """Where it is written why an object is gone, and what is left of it."""
    return f"{WITHDRAWN}/gone/{key}.json"


def withdrawn_override(version: str, sha256: str, video_key: str) -> str:
    """Where it is written who lets a registered version serve although it learned from a withdrawn video.

    With the model's digest, as in `model_card`: somebody answers for a model and not for a number.
    """
    return f"{withdrawn_overrides()}/{quote(version, safe='')}-{sha256[:12]}/{_quoted(video_key)}.json"


def withdrawn_overrides() -> str:
    """The folder of all of these."""
    return f"{WITHDRAWN}/overrides"


def predictions(video_key: str, version: str) -> str:
    """Where is published what a model found on a video's frames."""
    return f"predictions/{video_key}/{version}"


def looks(video_key: str, version: str) -> str:
    """Where is published what was seen in pictures of a video that may be worth labelling."""
    return f"looks/{video_key}/{version}"


def captures(day: str) -> str:
    """Where the server puts the requests of a day, UTC, that it keeps; below it there is a folder an hour."""
    return f"{CAPTURES}/{day}"


def profile(dataset_version: str, version: str) -> str:
    """Where is published what the pictures of a dataset look like, as one version of the code measures them."""
    return f"profiles/{dataset_version}/{version}"


def report(day: str, version: str) -> str:
    """Where a drift report is published."""
    return f"reports/{day}/{version}"


def label_request(batch: str) -> str:
    """Where a batch of pictures to be labelled is published."""
    return f"{LABEL_REQUESTS}/{batch}"


def label_state(batch: str, what: str) -> str:
    """Where it is noted what became of a batch: `handed` (to which tool, where) or `collected` (what is in)."""
    return f"{LABELING}/{batch}/{what}.json"


def label_work(batch: str, tool: str) -> str:
    """Where a tool that works in the lake has what it is given of a batch, and puts what people have done."""
    return f"label_work/{batch}/{tool}"


def first_table(asset: str, version: str) -> str:
    """Where it is written which table told of a version first, of an asset that has one a table."""
    return f"{LINEAGE}/{asset}/{_quoted(version)}.json"


def dataset_videos(version: str = "") -> str:
    """Where lies which videos a dataset has, a row each; without a version, the folder of those of all datasets."""
    return f"{LINEAGE}/videos/{version}.parquet" if version else f"{LINEAGE}/videos"


def known(what: str) -> str:
    """Below which it is remembered with which fingerprint each video's `what` was taken in."""
    return f"known/{what}"


def known_beside(what: str, video_key: str) -> str:
    """The folder in which it is remembered of one video and of few others.

    A file of this machine cannot be found by how its name begins, and a folder a video takes longer to list than all
    that is in them.
    """
    return f"{known(what)}/{hashlib.sha256(video_key.encode()).hexdigest()[:2]}"


def known_as(what: str, video_key: str, fingerprint: str) -> str:
    """The empty object that remembers a fingerprint."""
    name = _quoted(video_key)
    # A file's name has 255 bytes at most, and a store may add some while it writes.
    return f"{known_beside(what, video_key)}/{name}{'!' if len(name) < 200 else '/'}{fingerprint}"


def known_before(what: str, video_key: str) -> str:
    """The folder in which the same was remembered until folders were shared."""
    return f"{known(what)}/{_quoted(video_key)}"


def taken_in(what: str, key: str) -> tuple[str, str]:
    """The video and the fingerprint that an object of `known_as`, or one in `known_before`, remembers."""
    parts = key.removeprefix(f"{known(what)}/").split("/")
    name, _, fingerprint = parts[-1].partition("!")
    if not fingerprint:
        name, fingerprint = parts[-2], parts[-1]
    plain = name.replace("%2F", "/")  # which is all there is to most of them
    return plain if "%" not in plain else unquote(name), fingerprint


def job(step: str, attempt: int | None = None) -> str:
    """Prefix of what a managed job needs while it runs: of one attempt at a step, or of all of them."""
    return f"jobs/{step}" if attempt is None else f"jobs/{step}/{attempt}"


def checkpoint(step: str) -> str:
    """Prefix of what an interrupted job leaves for the next attempt at the same step."""
    return f"jobs/{step}/checkpoint"


def read_last(key: str) -> int:
    """When a reader comes to an object, as a rank: whoever copies a lake copies the lowest first.

    0 are things, 1 the manifests that name them, 2 the pointers to today's tables and to the endpoint's state, which
    name what is to be found through manifests.
    """
    name = posixpath.basename(key)
    if key == ROLLOUT_STATE or (key.startswith("tables/") and name == "today.json"):
        return 2
    return 1 if name == MANIFEST or key.startswith(f"{LINEAGE}/") else 0


def may_change(key: str) -> bool:
    """Whether an object may be replaced by another of the same key; everything else is written once."""
    return (
        key.startswith((f"{VIDEOS}/", f"{ANNOTATIONS}/", f"{LABELING}/", "overrides/", "known/digests/"))
        or read_last(key) == 2
    )


def is_of_this_place(key: str) -> bool:
    """Whether an object means nothing in another lake: jobs, an endpoint, who drives a rollout, and what was taken in.

    The last is told by tags that each store makes in its own way; a platform's catalogue names its lake. What was
    erased here is still to be erased there.
    """
    erased = (f"{WITHDRAWN}/{what}/" for what in ("erasures", "tombstones", "gone"))
    prefixes = ("jobs/", "catalogue/", f"{ENDPOINT}/", f"{known(VIDEOS)}/", f"{known(ANNOTATIONS)}/", *erased)
    return key.startswith(prefixes) or key == ROLLOUT_PULSE


def digest_of(sha256: str) -> str:
    """Where it is remembered which video was the first with some content."""
    return f"known/digests/{sha256}"


def table_pointer(asset: str, partition: str | None) -> str:
    """The small object that says which table is today's."""
    return f"{table_folder(asset, partition)}/today.json"


def table(asset: str, partition: str | None, sha256: str) -> str:
    """Where a table lies, by the hash of its content."""
    return f"{table_folder(asset, partition)}/{sha256[:32]}.parquet"


def table_folder(asset: str, partition: str | None) -> str:
    """Where the tables of a partition lie, or without one those of an asset, or the folders of all its partitions."""
    return f"tables/{asset}/{_quoted(partition)}" if partition is not None else f"tables/{asset}"


def _quoted(video_key: str) -> str:
    # A video's key may be a prefix of another's path (`a` and `a/b.mp4`): quoted, each has a folder of its own.
    return quote(video_key, safe=" ()+,-_.=@")


def slug(text: str) -> str:
    """A short name that is safe as a folder anywhere and unique to the text."""
    stem = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in text)[-40:].strip(
        "-"
    )
    return f"{stem or 'x'}-{hash_int(text) >> 88:010x}"
