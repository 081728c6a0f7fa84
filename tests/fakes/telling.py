"""A bucket of moto's that tells a queue what comes into it, in either of the two ways that S3 has."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from fakes import s3

from resources.arrivals.aws import SqsArrivals
from resources.storage import Storage

Way = Literal["eventbridge", "notification"]
WAYS: tuple[Way, ...] = ("eventbridge", "notification")


@dataclass
class Telling:
    """A lake with one detector, `tiny`, whose videos a queue is told of.

    Attributes:
        bucket: The bucket; the lake is all of it.
        queue: The queue's URL.
    """

    bucket: str
    queue: str
    _s3: Any
    _sqs: Any

    setting = "DETECTION_AWS_QUEUE"

    @property
    def lake(self) -> str:
        """DETECTION_LAKE."""
        return f"s3://{self.bucket}"

    def reader(self, queue: str | None = None) -> SqsArrivals:
        """What takes its messages, or those of another queue."""
        return SqsArrivals(storage=Storage(root=self.lake, prefix="tiny"), queue=queue or self.queue)

    def event(self, key: str, lake: str = "") -> dict[str, Any]:
        """What tells of an object in the lake, or in another one."""
        return {"source": "aws.s3", "detail": {"bucket": {"name": lake or self.bucket}, "object": {"key": key}}}

    def put(self, key: str, data: bytes = b"x") -> None:
        """Puts an object below the detector's folder."""
        self._s3.put_object(Bucket=self.bucket, Key=f"tiny/{key}", Body=data)

    def delete(self, key: str) -> None:
        """Deletes one."""
        self._s3.delete_object(Bucket=self.bucket, Key=f"tiny/{key}")

    def send(self, body: object) -> None:
        """Sends a message of somebody else's making."""
        self._sqs.send_message(QueueUrl=self.queue, MessageBody=body if isinstance(body, str) else json.dumps(body))

    def lose(self) -> None:
        """Loses what the queue holds."""
        self._sqs.purge_queue(QueueUrl=self.queue)

    def left(self) -> int:
        """How many messages the queue has, those among them that somebody took and has not ended."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = self._sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(int(told[name]) for name in names)


def record(bucket: str, key: str) -> dict[str, Any]:
    """What S3's own notification says of an object, in short; the key as it is to stand there."""
    return {"eventSource": "aws:s3", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


@contextmanager
def telling(url: str, way: Way) -> Iterator[Telling]:
    """Makes a bucket, a queue, and what lies between them."""
    from boto3.session import Session

    session = Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=s3.REGION)
    with ExitStack() as opened:
        storage, sqs, events = (session.client(name, endpoint_url=url) for name in ("s3", "sqs", "events"))
        for client in (storage, sqs, events):
            opened.callback(client.close)
        bucket = f"tells-{uuid.uuid4().hex[:12]}"
        storage.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.REGION})
        queue = sqs.create_queue(QueueName=f"detection-tiny-{bucket}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        if way == "notification":
            told: dict[str, Any] = {
                "QueueConfigurations": [
                    {
                        "QueueArn": arn,
                        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "tiny/videos/"}]}},
                    }
                ]
            }
        else:
            detail = {"bucket": {"name": [bucket]}, "object": {"key": [{"prefix": "tiny/videos/"}]}}
            pattern = {"source": ["aws.s3"], "detail-type": ["Object Created", "Object Deleted"], "detail": detail}
            events.put_rule(Name=bucket, EventPattern=json.dumps(pattern))
            events.put_targets(Rule=bucket, Targets=[{"Id": "queue", "Arn": arn}])
            opened.callback(events.delete_rule, Name=bucket, Force=True)
            opened.callback(events.remove_targets, Rule=bucket, Ids=["queue"])
            told = {"EventBridgeConfiguration": {}}
        storage.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=told)
        yield Telling(bucket, queue, storage, sqs)
