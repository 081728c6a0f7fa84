"""Who says what about a frame, and who is listened to where several speak: other files, other annotators.

A voice is a person, or a file of which nobody knows by whom it is. Rows that name nobody belong to the one person that
their file names elsewhere, if it names exactly one; else the file itself is the voice. A row that says that there is
nothing on a frame is a voice's word like a box. Of a person whose word on a frame is in several files, the last file
counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from detection_assets.domain.matched_rows import SAME_PX, Rows, Teller


@dataclass(frozen=True)
class Voices:
    """The voice of each of some rows.

    Attributes:
        code: Its number among `names`, a row each.
        named: Whether the row itself, or its file, names a person.
        several: Whether several voices speak of the row's frame.
        names: What the voices are called: an annotator, or a file. Sorted.
    """

    code: np.ndarray
    named: np.ndarray
    several: np.ndarray
    names: list[str]

    def take(self, keep: np.ndarray) -> Voices:
        """Those of some of the rows, by a mask or by their numbers."""
        return Voices(self.code[keep], self.named[keep], self.several[keep], self.names)


def voices(rows: Rows, parsed_rows: pd.DataFrame) -> Voices:
    """Finds the voice of each row; see above."""
    people, names = pd.factorize(parsed_rows["annotator"])
    files, file_names = pd.factorize(parsed_rows["file"])
    alone = np.full(len(file_names), -1, dtype=np.int64)
    said = np.flatnonzero(people >= 0)
    if len(said):
        each = pd.Series(people[said]).groupby(files[said]).agg(["min", "max"])
        alone[each.index.to_numpy()] = np.where(each["min"] == each["max"], each["min"], -1)
    person = people[rows.at]
    person = np.where(person < 0, alone[files[rows.at]] if len(alone) else -1, person)
    # A person may be called as a file is; they would still be one voice, which no report could tell apart.
    called = np.array([*map(str, names), *map(str, file_names)], dtype=object)
    used = np.where(person >= 0, person, len(names) + files[rows.at])
    kinds, code = np.unique(used, return_inverse=True)
    sorted_names, again = np.unique(called[kinds].astype(str), return_inverse=True)
    code = again[code] if len(code) else np.empty(0, dtype=np.int64)
    low = np.full(int(rows.frame.max(initial=-1)) + 1, len(sorted_names), dtype=np.int64)
    high = np.full(len(low), -1, dtype=np.int64)
    np.minimum.at(low, rows.frame, code)
    np.maximum.at(high, rows.frame, code)
    return Voices(code, person >= 0, (low < high)[rows.frame], sorted_names.tolist())


def latest(rows: Rows, heard: Voices, files: list[str], teller: Teller, counts: dict[str, int]) -> np.ndarray:
    """Where a row is of whoever spoke last of its frame: the last file, and in it the last annotator it names.

    Boxes of that file that name nobody stay beside those of its last annotator.
    """
    speaks = _last_file(rows, files, teller, counts)
    return speaks & _last_person(rows, heard, speaks, teller, counts)


def each_once(rows: Rows, heard: Voices, counts: dict[str, int]) -> np.ndarray:
    """Where a row is of the last file in which its voice speaks of its frame."""
    key = rows.frame.astype(np.int64) * max(len(heard.names), 1) + heard.code
    _, at = np.unique(key, return_inverse=True)
    last = np.full(int(at.max(initial=-1)) + 1, -1, dtype=np.int64)
    np.maximum.at(last, at, rows.file)
    good = rows.file == last[at]
    counts["superseded"] += int((~good & (rows.label >= 0)).sum())
    return good


def _last_person(rows: Rows, heard: Voices, speaks: np.ndarray, teller: Teller, counts: dict[str, int]) -> np.ndarray:
    """Where a row names nobody, or the person whose row comes last in the file that speaks for the frame."""
    good = np.ones(len(rows.frame), dtype=bool)
    mine = np.flatnonzero(speaks & heard.named)
    if not len(mine):
        return good
    order = mine[np.lexsort((rows.at[mine], rows.frame[mine]))]
    last = np.full(len(teller.frames), -1, dtype=np.int64)
    last[rows.frame[order]] = heard.code[order]
    lost = mine[heard.code[mine] != last[rows.frame[mine]]]
    if not len(lost):
        return good
    good[lost] = False
    counts["superseded"] += int((rows.label[lost] >= 0).sum())
    group = np.column_stack([rows.file[lost], heard.code[lost], last[rows.frame[lost]]])
    for (_, left, kept), at in zip(*np.unique(group, axis=0, return_index=True), strict=True):
        same = lost[(group == group[at]).all(axis=1)]
        frames = len(np.unique(rows.frame[same]))
        what = f"{heard.names[left]} and {heard.names[kept]} both annotated {frames} frames, this one for one"
        done = f"kept those of {heard.names[kept]}, the last in the file; set annotations.policy in the detector's file"
        first = rows.at[lost[at]]
        frame = teller.frames[rows.frame[lost[at]]]
        about = {"kind": "annotators", "video": teller.video, "frame": frame, "number": frames}
        teller.log.tell(teller.files[first], f"frame {frame}", what, done, **about)
    return good


def _last_file(rows: Rows, files: list[str], teller: Teller, counts: dict[str, int]) -> np.ndarray:
    """Where a row is of the file that speaks for its frame. Tells where the other files say something else."""
    speaker = np.full(len(teller.frames), -1, dtype=np.int64)
    np.maximum.at(speaker, rows.frame, rows.file)
    speaks = rows.file == speaker[rows.frame]
    if speaks.all():
        return speaks
    silent = np.zeros(len(teller.frames), dtype=bool)
    silent[rows.frame[~speaks]] = True
    contested = rows.take(silent[rows.frame] & (rows.label >= 0))
    boxes = rows.take(silent[rows.frame])
    counts["superseded"] += int((~speaks & (rows.label >= 0)).sum())
    pairs = np.unique(np.column_stack([boxes.frame, boxes.file]), axis=0)
    n_files = len(files)
    keys = pairs[:, 0] * n_files + pairs[:, 1]
    against = np.searchsorted(keys, pairs[:, 0] * n_files + speaker[pairs[:, 0]])
    pair = np.searchsorted(keys, contested.frame * n_files + contested.file)
    sizes = np.bincount(pair, minlength=len(keys))
    differs = sizes != sizes[against]
    same_size = np.flatnonzero(~differs & (against != np.arange(len(keys))) & (sizes > 0))
    # Each corner is sorted by itself within frame, file and class, so boxes need not come in the same order.
    starts = np.cumsum(sizes) - sizes
    steps = np.arange(sizes[same_size].sum()) - np.repeat(
        np.cumsum(sizes[same_size]) - sizes[same_size], sizes[same_size]
    )
    one, two = (np.repeat(starts[which], sizes[same_size]) + steps for which in (same_size, against[same_size]))
    for column in range(4):
        values = np.nan_to_num(contested.corners[:, column], nan=-1e12, posinf=1e12, neginf=-1e12)
        order = np.lexsort((values, contested.label, pair))
        values, label = values[order], contested.label[order]
        other = (label[one] != label[two]) | (np.abs(values[one] - values[two]) > SAME_PX)
        differs[np.repeat(same_size, sizes[same_size])[other]] = True
    counts["conflicts"] = len(np.unique(pairs[differs, 0]))
    for i in np.flatnonzero(differs):
        frame, kept, left = pairs[i, 0], files[pairs[against[i], 1]], files[pairs[i, 1]]
        if teller.log.room(kept, f"conflict with {left}"):
            what = f"disagrees with {left}: {sizes[against[i]]} boxes here, {sizes[i]} there"
            about = {"kind": "conflict", "video": teller.video, "frame": teller.frames[frame]}
            done = f"kept those of {kept}; remove one of the files"
            teller.log.tell(kept, f"frame {teller.frames[frame]}", what, done, **about)
    return speaks
