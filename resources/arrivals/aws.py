"""What S3 tells through an SQS queue, one of its own for each detector.

Both of S3's ways to a queue are understood, for they differ only in how a message is written: EventBridge, as
`infra/aws/detector.yaml` sets it up, and a notification of the bucket's own. What five ticks died of goes to the dead
letter queue, which holds nothing else but what could not be delivered.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote_plus

from resources import amazon, amazon_account
from resources.arrivals import managed
from resources.arrivals.base import ArrivalsError
from resources.arrivals.managed import Message, QueueArrivals
from resources.findings import Finding

WAIT_S = 1
"""Seconds that SQS waits for a message: with none it asks only some of its servers and may miss what is there."""
BATCH = 10
"""Messages of one request; SQS allows no more."""
NO_QUEUE = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress")
REMEDY = "deploy infra/aws/detector.yaml for this detector, or correct DETECTION_AWS_QUEUE"


class SqsArrivals(QueueArrivals):
    """Messages of S3 in an SQS queue."""

    def receive(self, most: int) -> Sequence[Message]:
        """Asks for messages."""
        told = self._ask(
            "receive_message",
            MaxNumberOfMessages=min(BATCH, most),
            WaitTimeSeconds=WAIT_S,
            VisibilityTimeout=managed.HIDDEN_S,
        )
        return [Message(one["ReceiptHandle"], one["Body"]) for one in told.get("Messages", [])]

    def named(self, event: Any) -> Sequence[tuple[str, str]]:
        """Bucket and key of each object; none for the message with which S3 tries a queue out."""
        if event.get("Event") == "s3:TestEvent":
            return []
        if event.get("source") == "aws.s3":
            return [_object(event["detail"]["bucket"]["name"], event["detail"]["object"]["key"])]
        records = [record["s3"] for record in event["Records"]]
        # Here, and only here, S3 writes keys as a form's values: spaces as plus signs, the rest as per cent.
        return [_object(one["bucket"]["name"], unquote_plus(one["object"]["key"])) for one in records]

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


def _object(bucket: Any, key: Any) -> tuple[str, str]:
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise TypeError("names are text")
    return bucket, key
