"""Blob storage whose Event Grid tells a queue what comes into it, in either of the two schemas that Event Grid has.

An Azurite has blobs and queues, and nothing that tells one of the other: that is done here, as a subscription with the
filter of `infra/azure/detector.bicep` does it.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from fakes import blob

from resources.arrivals.azure import StorageQueueArrivals
from resources.storage import Storage

Way = Literal["eventgrid", "cloudevents"]
WAYS: tuple[Way, ...] = ("eventgrid", "cloudevents")
TIME = "2026-01-01T00:00:00.0000000Z"
TOPIC = f"/subscriptions/s/resourceGroups/detection/providers/Microsoft.Storage/storageAccounts/{blob.ACCOUNT}"


@dataclass
class Telling:
    """A lake with one detector, `tiny`, whose videos a queue is told of.

    Attributes:
        lake: DETECTION_LAKE, a folder of the container.
        queue: The queue's URL.
        way: The schema of the events.
    """

    lake: str
    queue: str
    way: Way
    _container: Any
    _queue: Any

    setting = "DETECTION_AZURE_QUEUE"

    @property
    def root(self) -> str:
        """The lake's folder in its container."""
        return self.lake.removeprefix(f"az://{blob.CONTAINER}/")

    def reader(self, queue: str | None = None) -> StorageQueueArrivals:
        """What takes its messages, or those of another queue."""
        return StorageQueueArrivals(storage=Storage(root=self.lake, prefix="tiny"), queue=queue or self.queue)

    def put(self, key: str, data: bytes = b"x") -> None:
        """Puts a blob below the detector's folder."""
        self._container.upload_blob(f"{self.root}/tiny/{key}", data, overwrite=True)
        self._tell(key, "Microsoft.Storage.BlobCreated", "PutBlob")

    def delete(self, key: str) -> None:
        """Deletes one."""
        self._container.delete_blob(f"{self.root}/tiny/{key}")
        self._tell(key, "Microsoft.Storage.BlobDeleted", "DeleteBlob")

    def _tell(self, key: str, kind: str, api: str) -> None:
        if key.startswith("videos/"):
            self.send(self.event(f"tiny/{key}", kind=kind, api=api))

    def event(
        self, key: str, lake: str = "", *, kind: str = "Microsoft.Storage.BlobCreated", api: str = "PutBlob"
    ) -> dict[str, Any]:
        """What tells of a blob in the lake, or in another account's or container's, `account/container`."""
        account, _, container = (lake or f"{blob.ACCOUNT}/{blob.CONTAINER}").partition("/")
        name = f"{self.root}/{key}"
        # The subject has the name as it is; an address has it as addresses do.
        url = f"https://{account}.blob.core.windows.net/{container}/{quote(name)}"
        data = {"api": api, "contentLength": 1, "blobType": "BlockBlob", "url": url, "sequencer": "0" * 56}
        about = {"id": str(uuid.uuid4()), "subject": f"/blobServices/default/containers/{container}/blobs/{name}"}
        if self.way == "cloudevents":
            return {**about, "specversion": "1.0", "source": TOPIC, "type": kind, "time": TIME, "data": data}
        more = {"topic": TOPIC, "eventType": kind, "eventTime": TIME, "dataVersion": "", "metadataVersion": "1"}
        return {**about, **more, "data": data}

    def send(self, body: object) -> None:
        """Sends a message, of somebody else's making as well."""
        text = body if isinstance(body, str) else json.dumps(body)
        self._queue.send_message(base64.b64encode(text.encode()).decode())

    def lose(self) -> None:
        """Loses what the queue holds."""
        self._queue.clear_messages()

    def left(self) -> int:
        """How many messages the queue has, those among them that somebody took and has not ended."""
        return int(self._queue.get_queue_properties().approximate_message_count)


@contextmanager
def telling(queues: str, lake: str, way: Way) -> Iterator[Telling]:
    """Makes a queue at an Azurite, and what lies between it and the lake of this environment."""
    from azure.core.credentials import AzureNamedKeyCredential
    from azure.storage.blob import ContainerClient
    from azure.storage.queue import QueueClient

    key = AzureNamedKeyCredential(blob.ACCOUNT, blob.KEY)
    name = f"detection-tiny-{uuid.uuid4().hex[:12]}"
    with ExitStack() as opened:
        container = ContainerClient(os.environ["AZURE_STORAGE_ENDPOINT"], blob.CONTAINER, credential=key)
        queue = QueueClient(f"{queues}/{blob.ACCOUNT}", name, credential=key)
        for client in (container, queue):
            opened.enter_context(client)
        queue.create_queue()
        yield Telling(lake, f"{queues}/{blob.ACCOUNT}/{name}", way, container, queue)
