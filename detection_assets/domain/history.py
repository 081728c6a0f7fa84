"""Who served what, when, at what share: the log of an endpoint, and the periods that follow from it.

Each entry of the log says what the slots were from its moment on, so there is an answer for every moment since the
first entry, and a gap cannot be.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import pandas as pd

from detection_assets.domain import pages
from detection_assets.domain.rollout import Rollout

COLUMNS = ["slot", "version", "share", "from", "until", "why", "ended", "who", "rollout", "run"]
SHOWN = 160
"""Characters of a reason that people are shown in a table."""
WIDTH, ROW, LEFT, TOP = 900, 34, 110, 8
"""Of the picture, pixels: its width, the height of a slot's band, the room for names, and above."""
COLOURS = ("#3b6ea5", "#d98032", "#4c9a62", "#b0527a", "#7a68a6", "#8a7a3d", "#3f9a9a", "#a0522d")


@dataclass(frozen=True)
class Held:
    """What a slot holds: version, share of the traffic in per cent, and the digest of the model."""

    version: str
    share: int
    sha256: str = ""


@dataclass(frozen=True)
class Entry:
    """One line of the log: what the rollout is, and what the slots are from `at` on.

    Attributes:
        number: Its place, from 1, without a gap.
        at: From when on `slots` is true, epoch seconds.
        slots: What each slot holds.
        rollout: The rollout as it was decided; None before the first.
        settled: Whether what the rollout's stage asks for is done; if not, whoever comes next does it again.
        why: Why the slots are so.
        who: Who caused it: who approved the version, or who decided by hand.
        run: The Dagster run, or "".
        rolled_back: Why, by version that was rolled back and has not served since.
    """

    number: int
    at: float
    slots: Mapping[str, Held] = field(default_factory=dict)
    rollout: Rollout | None = None
    settled: bool = True
    why: str = ""
    who: str = ""
    run: str = ""
    rolled_back: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """The entry as JSON-serialisable values."""
        return {
            **asdict(self),
            "slots": {name: asdict(held) for name, held in self.slots.items()},
            "rollout": self.rollout.dump() if self.rollout else None,
            "rolled_back": dict(self.rolled_back),
        }

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> Entry:
        """Reads what `dump` wrote.

        Raises:
            ValueError: If it is not an entry.
        """
        try:
            return cls(
                number=int(raw["number"]),
                at=float(raw["at"]),
                slots={name: Held(**held) for name, held in raw["slots"].items()},
                rollout=Rollout.load(raw["rollout"]) if raw["rollout"] else None,
                settled=bool(raw["settled"]),
                why=str(raw["why"]),
                who=str(raw["who"]),
                run=str(raw["run"]),
                rolled_back=dict(raw["rolled_back"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an entry of the log that cannot be read: {type(error).__name__} {error}") from error


@dataclass(frozen=True)
class Period:
    """A slot that held one version at one share.

    Attributes:
        slot: The slot.
        version: The registered version.
        share: Share of the requests, per cent.
        start: From when on, epoch seconds.
        end: Until when; None: it still does.
        why: Why it began.
        who: Who caused it.
        rollout: The rollout that it belongs to, or "".
        run: The Dagster run, or "".
        ended: Why it ended, or "".
        sha256: Digest of the model, or "": a registry that counts anew calls another by the same version.
    """

    slot: str
    version: str
    share: int
    start: float
    end: float | None
    why: str
    who: str
    rollout: str
    run: str
    ended: str = ""
    sha256: str = ""


def periods(log: Iterable[Entry]) -> list[Period]:
    """The periods that a log tells of, in order of their beginning, then of the slot's name.

    A slot that goes on with the same version and share has one period, whatever else happens. An entry that claims to
    be from before the one that precedes it (a clock that was set back) counts from that one on.
    """
    going: dict[str, Period] = {}
    found: list[Period] = []
    last = float("-inf")
    for item in sorted(log, key=lambda item: item.number):
        at = last = max(last, item.at)
        for name in sorted(going.keys() | item.slots.keys()):
            now, held = going.get(name), item.slots.get(name)
            if now is not None and held is not None and _alike(now, held):
                continue
            if now is not None:
                found.append(replace(going.pop(name), end=at, ended=item.why))
            if held is not None:
                rollout = item.rollout.id if item.rollout else ""
                going[name] = Period(
                    name, held.version, held.share, at, None, item.why, item.who, rollout, item.run, "", held.sha256
                )
    # What began and ended in the same moment was never there.
    found = [period for period in found if period.end is None or period.end > period.start]
    return sorted([*found, *going.values()], key=lambda period: (period.start, period.slot))


def _alike(now: Period, held: Held) -> bool:
    known = now.sha256 and held.sha256
    return (now.version, now.share) == (held.version, held.share) and (not known or now.sha256 == held.sha256)


def at(found: Iterable[Period], moment: float) -> dict[str, int]:
    """Share of the traffic by version at a moment, versions without any left out.

    Args:
        found: The periods.
        moment: Epoch seconds.
    """
    shares: dict[str, int] = {}
    for period in found:
        if period.start <= moment and (period.end is None or moment < period.end) and period.share:
            shares[period.version] = shares.get(period.version, 0) + period.share
    return shares


def previous(found: Sequence[Period], version: str, unless: Iterable[str] = ()) -> str | None:
    """The version that had all the traffic last, before the given one.

    Args:
        found: The periods.
        version: The version that serves.
        unless: Versions that do not come into question.
    """
    skipped = {version, *unless}
    whole = [period for period in found if period.share == 100 and period.version not in skipped]
    return whole[-1].version if whole else None


def table(found: Sequence[Period]) -> pd.DataFrame:
    """The periods as the `deployment_history` table; times in ISO 8601, UTC, with milliseconds."""
    rows = [
        {
            "slot": period.slot,
            "version": period.version,
            "share": period.share,
            "from": moment(period.start),
            "until": None if period.end is None else moment(period.end),
            "why": period.why,
            "ended": period.ended,
            "who": period.who,
            "rollout": period.rollout,
            "run": period.run,
        }
        for period in found
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def shown(found: Sequence[Period]) -> pd.DataFrame:
    """The same for people: the latest first, times to the second, and why it was left if it was rolled back."""
    left = [f" → {_short(period.ended)}" if period.ended.startswith("rolled back") else "" for period in found]
    for_people = table(found).drop(columns=["ended", "rollout", "run"])
    for_people = for_people.assign(why=for_people["why"] + pd.Series(left, dtype=object))[::-1]
    for column in ("from", "until"):
        for_people[column] = for_people[column].astype("string").str.slice(0, 19).str.replace("T", " ").fillna("now")
    return for_people


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rsplit(' ', 1)[0]} ..."


def moment(epoch_s: float) -> str:
    """A time in ISO 8601, UTC, with milliseconds."""
    return datetime.fromtimestamp(epoch_s, timezone.utc).isoformat(timespec="milliseconds")


def picture(found: Sequence[Period], now: float, width: int = 0) -> str:
    """Shares over time as an SVG: a band a slot, a colour a version, as high as its share.

    The axis is even in changes and not in time: a canary of a minute is to be seen beside a year of service.

    Args:
        found: The periods.
        now: Until when to draw, epoch seconds.
        width: Its width in pixels, for a page that has colours of its own; 0 for a picture that stands by itself.
    """
    recent = [period for period in found if period.start < now][-40:]
    if not recent:
        return ""
    times = sorted({*(period.start for period in recent), *(period.end or now for period in recent), now})
    wide, first = (width, 64) if width else (WIDTH, LEFT)
    scale = (wide - first - 10) / max(1, len(times) - 1)
    place = {time: first + index * scale for index, time in enumerate(times)}
    versions = list(dict.fromkeys(period.version for period in recent))
    colour = {version: COLOURS[index % len(COLOURS)] for index, version in enumerate(versions)}
    slots = sorted({period.slot for period in recent})
    parts = []
    for row, slot in enumerate(slots):
        base = TOP + (row + 1) * ROW
        parts.append(f'<text x="8" y="{base - 10}">{pages.svg_text(slot)}</text>')
        parts.append(f'<line x1="{first}" x2="{wide - 10}" y1="{base}" y2="{base}" stroke="#999"/>')
        for period in (item for item in recent if item.slot == slot):
            left, right = place[period.start], place[period.end or now]
            high = 2 + (ROW - 8) * period.share / 100
            label = f"version {period.version}, {period.share} %, {moment(period.start)}: {period.why}"
            parts.append(
                f'<rect x="{left:.1f}" y="{base - high:.1f}" width="{max(1.0, right - left):.1f}" height="{high:.1f}" '
                f'fill="{colour[period.version]}"><title>{pages.svg_text(label)}</title></rect>'
            )
    bottom = TOP + len(slots) * ROW
    every = max(1, len(times) // (3 if width else 6))
    for time in times[::-every][::-1]:
        stamp = datetime.fromtimestamp(time, timezone.utc).strftime("%m-%d %H:%M:%S")
        parts.append(f'<text x="{place[time]:.1f}" y="{bottom + 16}" text-anchor="end" font-size="10">{stamp}</text>')
    for index, version in enumerate(versions):
        line, column = divmod(index, max(1, (wide - first - 10) // 100))
        left, down = first + column * 100, bottom + 26 + 16 * line
        parts.append(f'<rect x="{left}" y="{down}" width="10" height="10" fill="{colour[version]}"/>')
        parts.append(
            f'<text x="{left + 14}" y="{down + 9}" font-size="11">version {pages.svg_text(version[:12])}</text>'
        )
    high = bottom + 44 + 16 * ((len(versions) - 1) // max(1, (wide - first - 10) // 100))
    if width:
        return (
            f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="shares of the traffic over time">'
            f"{''.join(parts)}</svg>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def markdown(found: Sequence[Period], now: float) -> str:
    """The picture as Markdown that needs no other file."""
    drawn = picture(found, now)
    if not drawn:
        return "nothing has served yet"
    return f"![shares of the traffic](data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()})"
