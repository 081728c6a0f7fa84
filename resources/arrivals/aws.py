"""What S3 tells through an SQS queue, one of its own for each detector.

Both of S3's ways to a queue are understood, for they differ only in how a message is written: EventBridge, as
`infra/aws/detector.yaml` sets it up, and a notification of the bucket's own. A message that says nothing about this
detector's part of the lake is ended like any other, with a line in the log: it would be no more use the next time, and
what it should have said is found by listing. So the dead letter queue holds only what nobody lived to take.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote_plus, urlparse

import dagster as dg
import orjson

from detection_assets.domain import layout
from resources import amazon, amazon_account
from resources.arrivals.base import Arrivals, ArrivalsError, Notice
from resources.findings import Finding
from resources.storage import Storage

WAIT_S = 1
"""Seconds that SQS waits for a message: with none it asks only some of its servers and may miss what is there."""
HIDDEN_S = 300
"""Seconds for which nobody else is given a message: several ticks, for the tick after the one that took it ends it."""
TAKING_S = 15.0
"""Seconds after which no more messages are asked for: a tick has a minute in all."""
BATCH = 10
"""Messages of one request; SQS allows no more."""
SHOWN = 200
"""Characters of a message that the log shows."""
NO_QUEUE = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress")
REMEDY = "deploy infra/aws/detector.yaml for this detector, or correct DETECTION_AWS_QUEUE"


class QueueArrivals(Arrivals):
    """Messages of S3 in an SQS queue.

    Attributes:
        queue: The queue's URL; nobody else may read from it.
    """

    storage: dg.ResourceDependency[Storage]
    queue: str

    @property
    def tells(self) -> bool:
        """S3 does."""
        return True

    def take(self, most: int) -> Sequence[Notice]:
        """Takes messages until there are none, or enough, or time is up."""
        found: list[Notice] = []
        ends = time.monotonic() + TAKING_S
        while len(found) < most and time.monotonic() < ends:
            messages = self._ask(
                "receive_message",
                MaxNumberOfMessages=min(BATCH, most - len(found)),
                WaitTimeSeconds=WAIT_S,
                VisibilityTimeout=HIDDEN_S,
            ).get("Messages", [])
            if not messages:
                break
            found += [self._notice(message["ReceiptHandle"], message["Body"]) for message in messages]
        return found

    def done(self, receipts: Sequence[str]) -> None:
        """Deletes messages."""
        for start in range(0, len(receipts), BATCH):
            batch = receipts[start : start + BATCH]
            # One that cannot be deleted, because its receipt is too old, comes again, and does no harm then either.
            self._ask(
                "delete_message_batch",
                Entries=[{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(batch)],
            )

    def check(self) -> Iterator[Finding]:
        """Looks whether the queue is there, and how much it holds."""

        def look() -> tuple[bool, str, str]:
            told = amazon.client("sqs").get_queue_attributes(
                QueueUrl=self.queue, AttributeNames=["ApproximateNumberOfMessages"]
            )
            return True, f"{self.queue}: {told['Attributes']['ApproximateNumberOfMessages']} messages", ""

        yield amazon_account.looked("queue", look, REMEDY, NO_QUEUE)

    def _ask(self, call: str, **what: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(amazon.client("sqs"), call)(QueueUrl=self.queue, **what)
        except ClientError as error:
            remedy = f" ({REMEDY})" if amazon.code_of(error) in NO_QUEUE else ""
            raise ArrivalsError(f"{self.queue}: {amazon.refusal(error)}{remedy}") from error
        except BotoCoreError as error:  # no credentials, no region, no network
            raise ArrivalsError(f"{self.queue}: {error}") from error

    def _notice(self, receipt: str, body: str) -> Notice:
        lake = urlparse(self.storage.uri)
        root = lake.path.strip("/")
        keys: list[str] = []
        problems: list[str] = []
        try:
            told = events(body)
        except ValueError as error:
            return Notice(receipt, problems=[f"a message {error}: {body[:SHOWN]!r}"])
        for bucket, key in told:
            if bucket != lake.netloc:
                problems.append(f"a message about another bucket, {bucket[:SHOWN]!r}")
            elif not key.startswith(f"{root}/{layout.VIDEOS}/"):
                problems.append(f"a message about what is no video of this detector, {key[:SHOWN]!r}")
            elif not key.endswith("/"):  # what ends like this is a folder that somebody made in the console
                keys.append(key.removeprefix(f"{root}/"))
        return Notice(receipt, keys, problems)


def events(body: str) -> list[tuple[str, str]]:
    """The objects that a message names.

    Args:
        body: The message as S3 or EventBridge wrote it.

    Returns:
        Bucket and key of each object; none for the message with which S3 tries a queue out.

    Raises:
        ValueError: It is no such message; the text goes on from "a message".
    """
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("that is no JSON") from None
    try:
        if told.get("Event") == "s3:TestEvent":
            return []
        if told.get("source") == "aws.s3":
            return [_object(told["detail"]["bucket"]["name"], told["detail"]["object"]["key"])]
        records = [record["s3"] for record in told["Records"]]
        # Here, and only here, S3 writes keys as a form's values: spaces as plus signs, the rest as per cent.
        return [_object(one["bucket"]["name"], unquote_plus(one["object"]["key"])) for one in records]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError("that is no event of S3") from None


def _object(bucket: Any, key: Any) -> tuple[str, str]:
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise TypeError("names are text")
    return bucket, key
