"""Pictures that are embedded in Dagster's event log, and how those of one video are taken out of it.

Dagster offers no way to change an event, and to wipe an asset or to delete a run would lose what others rely on. But
its event log is a database with a schema of its own, in SQL everywhere: three columns hold events as text. There each
picture of the video is replaced by a few words, and nothing else of the event changes: who made what from what stays.

SQLite keeps what was replaced in pages that it may use again, and in its journal: it is told to overwrite them, and the
database of assets, in which Dagster itself replaces events all the time, is written anew. What Postgres keeps goes with
its next vacuum, and with the backups.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from detection_assets.domain import card
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import without_pictures

COLUMNS = (
    ("event_logs", "event"),
    ("asset_keys", "last_materialization"),
    ("asset_check_executions", "evaluation_event"),
)
"""Tables and columns of Dagster's event log that hold events."""
PICTURE = "%](data:image/%"
REMEDY = "end `detection dev` and what else uses Dagster here, and run again"
AT_ONCE = 200
"""Events in memory at once."""
_PREVIEW = re.compile(r"!\[(preview/[^\]]*)\]\(data:image/")


@dataclass(frozen=True)
class Sought:
    """Whose pictures are sought.

    Attributes:
        video: The video: its frames' pictures bear their ids.
        worst: Versions of evaluations whose drawing of the worst frames shows some of it.
        runs: Runs that made batch predictions of it: earlier releases called previews by their place alone.
        requests: Captured requests whose pictures are the video's: day and id.
        batches: Names of its pictures, by batch of labels.
    """

    video: str
    worst: Collection[str] = ()
    runs: Collection[str] = ()
    requests: Collection[tuple[str, str]] = ()
    batches: Mapping[str, Collection[str]] = field(default_factory=dict)

    def names(self, event: str) -> set[str]:
        """What else the video's pictures are called in an event, given as text."""
        found: set[str] = set()
        if any(version in event for version in self.worst):
            found.add("worst")
        if any(run in event for run in self.runs):
            found |= {*_PREVIEW.findall(event), "worst disagreements"}
        if self.requests and "captured_requests" in event:
            found |= {card.escape(request) for _, request in self.requests}
        for batch, names in self.batches.items():
            if batch in event:
                found |= {card.escape(name) for name in names}
        if any(f"reports/{day}/" in event for day, _ in self.requests):
            found.add("")  # the strangest pictures of a day have no names
        return found


def count(instance: dg.DagsterInstance, sought: Sought) -> int:
    """How many pictures there are in the log; a picture is there several times if several events show it."""
    return sum(_walk(instance, sought, lambda *_: None))


def erase(instance: dg.DagsterInstance, sought: Sought) -> int:
    """Takes the pictures out; returns how many there were.

    Raises:
        InputError: The log is in no database that is known, or is in use and cannot be written anew.
    """
    done = sum(_walk(instance, sought, _update))
    for path in _files(instance):
        _written_anew(path)
    return done


def left(instance: dg.DagsterInstance) -> str:
    """What has to be done by hand where the log is no file of this machine, or ""."""
    if _files(instance):
        return ""
    return (
        "Dagster's database: it keeps what was replaced until `VACUUM FULL event_logs, asset_keys, "
        "asset_check_executions` is run in it, and in its backups"
    )


def _walk(instance: dg.DagsterInstance, sought: Sought, act: Callable[..., None]) -> Iterator[int]:
    """Looks at each event with a picture in it, and says how many of the video's it had."""
    for opened in _databases(instance):
        with opened() as connection:
            for table, column in COLUMNS:
                for rows in _events(connection, table, column):
                    for number, event in rows:
                        text, gone = without_pictures(event, sought.video, sought.names(event))
                        if gone:
                            act(connection, table, column, number, text)
                            yield gone


def _events(connection: Any, table: str, column: str) -> Iterator[list[tuple[int, str]]]:
    from sqlalchemy import text

    query = text(
        f"SELECT id, {column} FROM {table} WHERE {column} LIKE :picture AND id > :last ORDER BY id LIMIT {AT_ONCE}"
    )
    last = -1
    while rows := [tuple(row) for row in connection.execute(query, {"picture": PICTURE, "last": last})]:
        yield rows
        last = rows[-1][0]


def _update(connection: Any, table: str, column: str, number: int, event: str) -> None:
    from sqlalchemy import text

    connection.execute(text(f"UPDATE {table} SET {column} = :event WHERE id = :id"), {"event": event, "id": number})


# Where the log is -----------------------------------------------------------------------------------------------------


def _databases(instance: dg.DagsterInstance) -> Iterator[Callable[[], Any]]:
    """Ways to open each database of the log: one for all, or, with SQLite, one for each run and one for assets."""
    files = _files(instance)
    if files:
        for path in files:
            yield lambda path=path: _sqlite(path)
        return
    storage: Any = instance.event_log_storage
    if not hasattr(storage, "index_connection"):
        raise InputError(
            f"Dagster's event log is in {type(storage).__name__}, in which pictures cannot be looked for; use the "
            "storage of dagster.yaml, or of infra/"
        )
    yield storage.index_connection


def _files(instance: dg.DagsterInstance) -> list[Path]:
    storage: Any = instance.event_log_storage
    storage = getattr(storage, "_storage", storage)
    if not hasattr(storage, "path_for_shard"):
        return []
    folder = Path(storage.path_for_shard("index")).parent
    return sorted(path for path in folder.iterdir() if path.name.endswith(".db"))


@contextmanager
def _sqlite(path: Path) -> Iterator[Any]:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": 60})
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
        yield connection
    engine.dispose()


def _written_anew(path: Path) -> None:
    """Leaves nothing in a file of SQLite's of what was replaced earlier, nor in the journal beside it."""
    try:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
            if path.name == "index.db" or database.execute("PRAGMA freelist_count").fetchone()[0]:
                database.execute("VACUUM")
            busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise InputError(f"{path}: {error}; {REMEDY}") from None
    if busy:
        raise InputError(f"{path}: somebody reads it; {REMEDY}")
