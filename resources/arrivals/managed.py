"""Queues of a cloud's own service that tell what came into the lake: what all of them have in common.

Each detector has a queue of its own. A message that says nothing about this detector's part of the lake is ended like
any other, with a line in the log: it would be no more use the next time, and what it should have said is found by
listing. A backend says how messages are taken and ended, and what the events of its cloud name.
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import dagster as dg
import orjson

from detection_assets.domain import layout
from resources.arrivals.base import Arrivals, Notice
from resources.storage import Storage

HIDDEN_S = 300
"""Seconds for which nobody else is given a message: several ticks, for the tick after the one that took it ends it."""
TAKING_S = 15.0
"""Seconds after which no more messages are asked for: a tick has a minute in all."""
MOST_TIMES = 5
"""How often a message is given to a tick: if each of them died, it is likely to be of this message."""
SHOWN = 200
"""Characters of a message that the log shows."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a queue holds.

    Attributes:
        receipt: What ends it.
        body: The message as the cloud wrote it.
        times: How often it was taken, this time with the others.
    """

    receipt: str
    body: str
    times: int = 1


class QueueArrivals(Arrivals):
    """Messages in a queue.

    Attributes:
        queue: The queue's URL; nobody else may read from it.
    """

    storage: dg.ResourceDependency[Storage]
    queue: str

    @property
    def tells(self) -> bool:
        """The lake does."""
        return True

    def take(self, most: int) -> Sequence[Notice]:
        """Takes messages until there are none, or enough, or time is up."""
        found: list[Notice] = []
        ends = time.monotonic() + TAKING_S
        while len(found) < most and time.monotonic() < ends:
            messages = self.receive(most - len(found))
            if not messages:
                break
            found += [self._notice(message) for message in messages]
        return found

    @property
    def place(self) -> str:
        """Where the lake is, as `named` says it of an object."""
        return urlparse(self.storage.uri).netloc

    @abstractmethod
    def receive(self, most: int) -> Sequence[Message]:
        """Asks once for messages, which nobody else is given for `HIDDEN_S`; none if there are none.

        Args:
            most: How many at most; a service may give fewer at once than there are.

        Raises:
            ArrivalsError: There is nobody to ask, or he refuses.
        """

    @abstractmethod
    def named(self, event: Any) -> Sequence[tuple[str, str]]:
        """The objects that an event names: of each where it is, comparable to `place`, and its key.

        Args:
            event: What a message's JSON holds, whatever that is.

        Raises:
            AttributeError, LookupError, TypeError, ValueError: It is no event of the lake's.
        """

    def _notice(self, message: Message) -> Notice:
        root = urlparse(self.storage.uri).path.strip("/")
        body = repr(message.body[:SHOWN])
        if message.times > MOST_TIMES:
            often = f"a message that was taken {message.times} times, and that nobody lived to end: {body}"
            return Notice(message.receipt, problems=[often])
        keys: list[str] = []
        problems: list[str] = []
        try:
            told = self.named(orjson.loads(message.body))
        except orjson.JSONDecodeError:
            return Notice(message.receipt, problems=[f"a message that is no JSON: {body}"])
        except (AttributeError, LookupError, TypeError, ValueError):
            return Notice(message.receipt, problems=[f"a message that is no event of the lake's: {body}"])
        for place, key in told:
            if place != self.place:
                problems.append(f"a message about another lake, {place[:SHOWN]!r}")
            elif not key.startswith(f"{root}/{layout.VIDEOS}/"):
                problems.append(f"a message about what is no video of this detector, {key[:SHOWN]!r}")
            elif not key.endswith("/"):  # what ends like this is a folder that somebody made in the console
                keys.append(key.removeprefix(f"{root}/"))
        return Notice(message.receipt, keys, problems)
