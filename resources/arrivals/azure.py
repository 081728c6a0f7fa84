"""What Event Grid tells of Blob storage through a storage queue, one of its own for each detector.

Both of its schemas are understood, its own and that of CloudEvents. A storage queue has no dead letter queue: what five
ticks died of is ended with a line in the log; what could not be delivered is a blob beside the lake, as
`infra/azure/detector.bicep` sets it up.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse, urlsplit

from detection_assets.object_store import account
from resources import microsoft
from resources.arrivals import managed
from resources.arrivals.base import ArrivalsError
from resources.arrivals.managed import Message, QueueArrivals
from resources.findings import Finding

BATCH = 32
"""Messages of one request; a storage queue gives no more."""
ABREAST = 8
"""Messages that are ended at once: each is a request of its own."""
CAME_OR_WENT = ("Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobDeleted")
RENAMED = "Microsoft.Storage.BlobRenamed"
BEGUN = ("CreateFile", "SftpCreate")
"""What an account with folders calls it that a file was begun; that it is there as a whole is an event of its own."""
NO_QUEUE = ("QueueNotFound", "InvalidResourceName", "OutOfRangeInput", "InvalidUri")
ENDED = ("MessageNotFound", "PopReceiptMismatch", "InvalidQueryParameterValue")
DENIED = ("AuthorizationPermissionMismatch", "AuthorizationFailure", "InsufficientAccountPermissions")
NOBODY = ("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation")
REMEDY = "deploy infra/azure/detector.bicep for this detector, or correct DETECTION_AZURE_QUEUE"

T = TypeVar("T")


class StorageQueueArrivals(QueueArrivals):
    """Messages of Event Grid in a storage queue."""

    @property
    def place(self) -> str:
        """The storage account and the container."""
        return f"{account().get('AZURE_STORAGE_ACCOUNT_NAME', '')}/{urlparse(self.storage.uri).netloc}"

    def receive(self, most: int) -> Sequence[Message]:
        """Asks for messages."""
        asked = {"messages_per_page": min(BATCH, most), "visibility_timeout": managed.HIDDEN_S}
        page = self._ask(lambda queue: list(next(queue.receive_messages(**asked).by_page(), ()))) or ()
        return [Message(f"{one.id} {one.pop_receipt}", _text(one.content), one.dequeue_count or 1) for one in page]

    def named(self, event: Any) -> Sequence[tuple[str, str]]:
        """Account with container, and name, of each blob."""
        told = event if isinstance(event, list) else [event]
        return [_blob(url) for one in told for url in _urls(one)]

    def done(self, receipts: Sequence[str]) -> None:
        """Deletes messages."""
        with ThreadPoolExecutor(ABREAST) as pool:
            list(pool.map(self._end, receipts))

    def check(self) -> Iterator[Finding]:
        """Looks whether the queue is there, and may be read."""
        from azure.core.exceptions import AzureError

        try:
            waiting = len(microsoft.storage_queue(self.queue).peek_messages(max_messages=BATCH))
        except (AzureError, ValueError) as error:
            yield Finding("queue", "bad", *self._refusal(error))
            return
        more = " or more" if waiting == BATCH else ""
        yield Finding("queue", "good", f"{self.queue}: {waiting}{more} messages")

    def _end(self, receipt: str) -> None:
        # One that cannot be deleted, because it was taken again since, comes again, and does no harm then either.
        message, _, receipt = receipt.partition(" ")
        self._ask(lambda queue: queue.delete_message(message, pop_receipt=receipt or "none"), past=ENDED)

    def _ask(self, what: Callable[[Any], T], past: Sequence[str] = ()) -> T | None:
        from azure.core.exceptions import AzureError

        try:
            return what(microsoft.storage_queue(self.queue))
        except (AzureError, ValueError) as error:
            if _code(error) in past:
                return None
            told, remedy = self._refusal(error)
            raise ArrivalsError(f"{told} ({remedy})" if remedy else told) from error

    def _refusal(self, error: Exception) -> tuple[str, str]:
        """What the storage account says, and what is to be done about it; "" if nothing is known to help."""
        told, remedy = microsoft.explained(error)
        code = _code(error)
        said = f"{self.queue}: {f'{code}: ' if code else ''}{told.splitlines()[0] if told else ''}"
        if code in NO_QUEUE or isinstance(error, ValueError):
            remedy = REMEDY
        elif code in DENIED:
            remedy = "give whom Dagster runs as the role Storage Queue Data Message Processor on the queue"
        elif code in NOBODY:
            remedy = "the storage account does not know these credentials; correct them in .env"
        return said, remedy


def _code(error: Any) -> str:
    """The storage account's word for an error; "" if it has none."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))  # those that its SDK knows are members of an enumeration


def _text(content: str) -> str:
    """A message as it was before Event Grid wrote it in base64; what is none is left as it is."""
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return content


def _urls(event: Any) -> Sequence[str]:
    """The URLs of the blobs that came or went by an event, in either schema."""
    kind, data = event.get("eventType") or event["type"], event["data"]
    if kind == RENAMED:
        return data["sourceUrl"], data["destinationUrl"]
    if kind not in CAME_OR_WENT:
        raise ValueError(kind)
    return () if data.get("api") in BEGUN else (data["url"],)


def _blob(url: str) -> tuple[str, str]:
    """Account with container, and name, of a blob."""
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path.removeprefix("/")
    if ".blob." in host:
        found = host.partition(".")[0]
    else:  # an address of one's own, which has the account in its path
        found, _, path = path.partition("/")
    container, _, name = path.partition("/")
    return f"{found}/{container}", unquote(name)
