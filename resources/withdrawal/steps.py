"""The steps of an erasure: each looks for what is still there of a video, takes it out, and can be done again."""

from __future__ import annotations

import io
import posixpath
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain import captures, contact_html, file_names, label_work, layout, model_card
from detection_assets.domain.labels import PICTURES
from detection_assets.domain.withdrawal import is_its, rows_of
from resources import label_batches, temporary
from resources import tables as stored
from resources.label_batches import CLOSED, COLLECTED, HANDED
from resources.storage import Published, Storage
from resources.withdrawal import traces, withdrawals

Tell = Callable[[str], None]
AT_ONCE = 500
"""Objects that are deleted together, between two words of progress."""


def own(storage: Storage, video: str, keys: Sequence[str], tell: Tell) -> None:
    """Deletes objects that are the video's alone; a table leaves a note for whoever knows its key."""
    for key in keys:
        if key.startswith("tables/") and key.endswith(".parquet"):
            withdrawals.note(storage, key, video, "")
    for first in range(0, len(keys), AT_ONCE):
        storage.remove(keys[first : first + AT_ONCE])
        tell(f"[{min(first + AT_ONCE, len(keys))}/{len(keys)}] objects deleted")


def tables(storage: Storage, video: str, captured: Collection[str], tell: Tell) -> None:
    """Writes each shared table anew without the video's rows, moves the pointer, and deletes the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = traces.rows_of_tables(storage, video, captured)
    for done, key in enumerate(found, 1):
        whole = pq.read_table(io.BytesIO(storage.get(key)))
        rest = whole.filter(pa.array(~rows_of(whole, video, {"image": captured})))
        data, digest = stored.packed(rest)
        folder = key.rpartition("/")[0]
        smaller = f"{folder}/{digest[:32]}.parquet"
        storage.put_if_absent(smaller, data)
        # What was erased of it before leads on to what is left now.
        withdrawals.note(storage, key, video, smaller)
        pointer = f"{folder}/today.json"
        told = orjson.loads(storage.get(pointer)) if storage.exists(pointer) else {}
        if told.get("table") == key:
            told |= {"table": smaller, "sha256": digest, "rows": rest.num_rows}
            storage.put(pointer, orjson.dumps({**told, withdrawals.ERASED: [*told.get(withdrawals.ERASED, ()), video]}))
        storage.remove([key])
        tell(f"[{done}/{len(found)}] tables written anew")


def published(storage: Storage, video: str, batches: Mapping[str, Sequence[str]], tell: Tell) -> None:
    """Publishes each version that holds some of the video anew without it, and deletes what killed runs left there."""
    prefixes = list(traces.prefixes(storage))
    for done, prefix in enumerate(prefixes, 1):
        made = storage.published(prefix)
        if made is None:
            continue
        root, _, version = prefix.partition("/")
        names = batches.get(version, ()) if root == layout.LABEL_REQUESTS else ()
        rows = dict(traces.rows_in(storage, made, video, {"name": names}))
        drawn = traces.drawn_of(storage, made, video, judged=bool(rows)) if root == layout.EVALUATIONS else []
        pictures = [f"{PICTURES}/{name}" for name in names if f"{PICTURES}/{name}" in made.files]
        if rows or drawn or pictures:
            made = _smaller(storage, made, video, rows, {"name": names}, {*drawn, *pictures})
        if video in made.notes.get(withdrawals.ERASED, ()):
            _tidy(storage, made)
        tell(f"[{done}/{len(prefixes)}] published versions looked at")
    storage.remove(list(traces.begun(storage, video)))


def _smaller(
    storage: Storage,
    made: Published,
    video: str,
    rows: Collection[str],
    also: Mapping[str, Collection[str]],
    without: Collection[str],
) -> Published:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with temporary.folder() as scratch:
        folder = Path(scratch) / "smaller"
        storage.download({made.key(name): folder / name for name in made.files if name not in without})
        if (page := folder / traces.PAGE).exists():
            page.write_text(contact_html.without(page.read_text("utf-8"), video), "utf-8")
        if (said := folder / model_card.CARD).exists():
            said.write_text(model_card.without(said.read_text("utf-8"), video)[0], "utf-8")
        for name in (one for one in rows if one.endswith(".parquet")):
            whole = pq.read_table(folder / name)
            pq.write_table(whole.filter(pa.array(~rows_of(whole, video, also))), folder / name)
        for name in ("summary.json", "dataset.json"):
            if (folder / name).exists():
                (folder / name).write_bytes(_said_less((folder / name).read_bytes(), video))
        return storage.replace(made, folder, {withdrawals.ERASED: [*made.notes.get(withdrawals.ERASED, ()), video]})


def _said_less(data: bytes, video: str) -> bytes:
    """A description that says what was taken out, and nothing of the video's frames."""
    told: dict[str, Any] = orjson.loads(data)
    if "worst" in told:
        told["worst"] = [one for one in told["worst"] if not is_its(video, str(one["frame"]))]
    if "problems" in told:
        told["problems"] = [one for one in told["problems"] if video not in str(one)]
    told[withdrawals.ERASED] = [*told.get(withdrawals.ERASED, ()), video]
    return orjson.dumps(told, option=orjson.OPT_INDENT_2)


def _tidy(storage: Storage, made: Published) -> None:
    """Deletes what lies at a published prefix and is not what is published."""
    kept = (f"{made.folder}/", f"{made.prefix}/{layout.MANIFEST}")
    storage.remove([item.key for item in storage.list(made.prefix) if not item.key.startswith(kept)])


def captured(
    storage: Storage, video: str, keys: Collection[str], requests: Iterable[tuple[str, str]], tell: Tell
) -> None:
    """Deletes captured pictures, their requests in what the server has kept, and the reports that show them."""
    names: dict[str, set[str]] = {}
    for key in keys:
        names.setdefault(posixpath.dirname(key), set()).add(posixpath.basename(key))
    for folder, images in names.items():
        for item in storage.list_folder(folder):
            if not captures.is_part(item.key):
                continue
            lines = storage.get(item.key).splitlines(keepends=True)
            kept = [line for line in lines if not _is_of(line, images)]
            if not any(line.strip() for line in kept):
                storage.remove([item.key])
            elif len(kept) < len(lines):
                storage.put(item.key, b"".join(kept))
        tell(f"captured requests below {folder}")
    storage.remove([key for key in keys if storage.exists(key)])
    for day in sorted({key.split("/")[1] for key in keys}):
        # Looked at again when that is asked for: whoever has no pictures there loses nothing.
        storage.remove([item.key for item in storage.list(layout.looks(layout.captures(day), "")[:-1])])
    for day in sorted({day for day, _ in requests}):
        ids = [f"request {request}<".encode() for of, request in requests if of == day]
        for item in storage.list(f"reports/{day}"):
            if item.key.endswith(".html") and any(one in storage.get(item.key) for one in ids):
                prefix = "/".join(item.key.split("/")[:3])
                withdrawals.note(storage, item.key, video, "")
                storage.remove([one.key for one in storage.list(prefix)])


def _is_of(line: bytes, images: Collection[str]) -> bool:
    try:
        return orjson.loads(line).get("image") in images
    except (ValueError, AttributeError):
        return False


def _out_of_work(storage: Storage, below: str, names: Collection[str]) -> None:
    """Takes pictures out of what a tool has of a batch in the lake."""
    listed = [item.key for item in storage.list(below)]
    storage.remove([key for key in listed if posixpath.basename(key) in names])
    less: Mapping[str, Callable[[bytes], bytes]] = {
        ".manifest": lambda data: label_work.lines_without(data, names, label_work.GONE),
        ".jsonl": lambda data: label_work.lines_without(data, names),
        ".json": lambda data: label_work.boxes_without(data, names),
    }
    for key in listed:
        act = less.get(file_names.suffix(key))
        if act is not None and posixpath.basename(key) not in names:
            _replaced(storage, key, act)
    # By the lines that are taken out already, too: who was killed in between has to find them.
    for key in (one for one in listed if posixpath.basename(one) == "input.manifest"):
        gone = label_work.gone_lines(storage.get(key))
        answers = [one for one in listed if one.startswith(f"{posixpath.dirname(posixpath.dirname(key))}/annotations/")]
        own = [one for one in answers if _number(one) in gone]
        storage.remove([one for one in own if storage.exists(one)])
        for one in (one for one in answers if gone and one not in own and file_names.suffix(one) == ".json"):
            _replaced(storage, one, lambda data, gone=gone: label_work.answers_without(data, gone))


def _number(key: str) -> int:
    """The number of the picture that an answer is about, whose folder is called so; -1 if it is about several."""
    name = posixpath.basename(posixpath.dirname(key))
    return int(name) if name.isdecimal() else -1


def _replaced(storage: Storage, key: str, act: Callable[[bytes], bytes]) -> None:
    data = storage.get(key)
    if (less := act(data)) != data:
        storage.put(key, less)


def asked_about(storage: Storage, batches: Mapping[str, Sequence[str]]) -> None:
    """Takes a video's pictures out of what is noted of batches, and of what tools have of these in the lake."""
    for batch, names in batches.items():
        its = set(names)
        _out_of_work(storage, layout.label_work(batch, "")[:-1], its)
        made = storage.published(layout.label_request(batch))
        left = len(label_batches.read(storage, batch)[0].frames) if made is not None else 0
        handed, collected = (label_batches.state(storage, batch, what) for what in (HANDED, COLLECTED))
        if handed and handed.get("pictures", 0) > left:
            label_batches.note(storage, batch, HANDED, {**handed, "pictures": left})
        if collected and its & collected.get("digests", {}).keys():
            rest = {name: one for name, one in collected["digests"].items() if name not in its}
            label_batches.note(storage, batch, COLLECTED, {**collected, "digests": rest})
        if not left and not label_batches.state(storage, batch, CLOSED):
            told = {"at": time.time(), "why": "all of its pictures were of videos that were withdrawn"}
            label_batches.note(storage, batch, CLOSED, told)
