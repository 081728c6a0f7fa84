"""How a server asks another slot of the endpoint that it is part of: each cloud has a front of its own before them."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from detection_assets import object_store
from detection_assets.domain.rollout import TRIAL
from detection_assets.serving.copies import TIMEOUT_S


class Unanswered(Exception):
    """A slot gave no answer; the status is its own, or 0 if it was not asked at all."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Way(ABC):
    """A way to the slots of an endpoint."""

    @abstractmethod
    def ask(self, slot: str, body: bytes, kind: str) -> bytes:
        """Asks a slot, as a trial; returns its answer.

        Args:
            slot: Its name.
            body: What is asked.
            kind: The body's media type.

        Raises:
            Unanswered: There is none.
        """


class ByVariant(Way):
    """SageMaker's front, which knows this server by its role."""

    def __init__(self, endpoint: str) -> None:
        """Takes the endpoint's name."""
        self._endpoint = endpoint
        self._client: Any = None

    def ask(self, slot: str, body: bytes, kind: str) -> bytes:
        """Asks for the slot's variant."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            told = self._service().invoke_endpoint(
                EndpointName=self._endpoint, TargetVariant=slot, Body=body, ContentType=kind,
                Accept="application/json", CustomAttributes=TRIAL,
            )  # fmt: skip
            return told["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise Unanswered(str(error), getattr(error, "response", {}).get("OriginalStatusCode", 0)) from error

    def _service(self) -> Any:
        if self._client is None:
            from boto3.session import Session
            from botocore.config import Config

            patient = Config(retries={"max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
            self._client = Session().client("sagemaker-runtime", config=patient)
        return self._client


class ByDeployment(Way):
    """Azure ML's front, which wants the endpoint's key; it is told to whom this server's identity is."""

    def __init__(self, url: str, keys: str) -> None:
        """Takes where the endpoint answers, and where its key is told."""
        self._url, self._keys = url, keys
        self._key = ""
        self._lock = threading.Lock()

    def ask(self, slot: str, body: bytes, kind: str) -> bytes:
        """Asks for the slot's deployment."""
        named = {"azureml-model-deployment": slot, "X-Detection-Slot": slot}
        headers = {**named, "Content-Type": kind, "Accept": "application/json"}
        try:
            for fresh in (False, True):
                key = {"Authorization": f"Bearer {self._told(fresh=fresh)}"}
                try:
                    return self._sent(self._url, body, {**headers, **key})
                except urllib.error.HTTPError as error:
                    with error:
                        if error.code == 401 and not fresh:
                            continue  # somebody has made new keys
                        status = int(error.headers.get("ms-azureml-model-error-statuscode") or error.code)
                    raise Unanswered(f"{slot} answered {status}", status) from error
        except (OSError, KeyError, ValueError) as error:
            raise Unanswered(f"{slot} was not asked: {error!r}") from error
        raise AssertionError("the second time is the last")

    def _told(self, *, fresh: bool) -> str:
        with self._lock:
            if fresh or not self._key:
                place = urlsplit(self._keys)
                token, _ = object_store.identity_token(f"{place.scheme}://{place.netloc}/")
                told = self._sent(self._keys, b"", {"Authorization": f"Bearer {token}"})
                self._key = str(orjson.loads(told)["primaryKey"])
            return self._key

    @staticmethod
    def _sent(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.read()


def way_of(raw: Mapping[str, Any]) -> Way:
    """The way that the orders tell.

    Raises:
        KeyError: They tell none.
    """
    if "url" in raw:
        return ByDeployment(str(raw["url"]), str(raw["keys"]))
    return ByVariant(str(raw["endpoint"]))
