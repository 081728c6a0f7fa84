"""Labelling in CVAT: a task a batch, made and asked about through CVAT's own SDK.

A task is found again by its name, which is the batch's. CVAT takes pictures into a task once and for all, so a task
whose pictures never arrived is made anew. Who annotates has a job of some pictures at a time, and says by completing it
that these are finished.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from detection_assets.domain.formats import coco, cvat
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem, Told
from resources import temporary
from resources.findings import Finding
from resources.labeling.base import Finished, Handed, Labeling, LabelingError, UnreachableError

TOOL = "cvat"
FORMAT = "CVAT for images 1.1"
STAGES = ("annotation", "validation", "acceptance")
"""A job's stages, in the order in which it goes through them."""
LONGEST = 64
"""Characters that a label may have."""
QUALITY = 95
"""Of the pictures that people see; CVAT's own 70 shows what is not there."""
ANSWER_S = (10.0, 300.0)
"""Seconds that the SDK, which knows no limit of its own, waits for a connection, and for an answer."""
BUSY, CONFLICT = (429, 502, 503, 504), 409
MOST_BYTES = 1 << 30
"""Of an export's XML."""


class CvatLabeling(Labeling):
    """Tasks on a CVAT server.

    Attributes:
        url: The server's address.
        key: An access token; "" to log in with name and password.
        user: The name; "" with an access token.
        password: The password.
        organization: The organization that the tasks are in; "" for one's own.
        pictures: How many pictures a job has; they are finished together.
        stage: Which stage of a job has to be completed: `annotation`, or a review after it.
        poll_s: Seconds between two questions whether CVAT is through with something.
    """

    url: str
    key: str = ""
    user: str = ""
    password: str = ""
    organization: str = ""
    pictures: int = Field(default=20, ge=1)
    stage: Literal["annotation", "validation", "acceptance"] = "annotation"
    poll_s: float = 1.0

    @property
    def tool(self) -> str:
        """CVAT."""
        return TOOL

    def title(self, batch: str) -> str:
        """What a batch's task is called."""
        return f"{self.detector} {batch}"[-256:]

    # Handing over ----------------------------------------------------------------------------------------------------

    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Makes the task unless there is one, and draws the proposals where nobody has begun."""
        long = [name for name in batch.classes if len(name) > LONGEST]
        if long:
            raise LabelingError(f"{batch.id}: CVAT takes names of {LONGEST} characters, and there is {long[0]!r}")
        with self._asking(batch.id) as client:
            task = self._found(client, batch.id)
            if task is not None and not task.size:
                task = self._settled(client, task)
            if task is None:
                task = self._made(client, batch)
                self._upload(task, batch, pictures)
            self._propose(task, batch)
            return Handed(batch.id, TOOL, str(task.id), f"{self.url.rstrip('/')}/tasks/{task.id}", int(task.size or 0))

    def _found(self, client: Any, batch: str) -> Any | None:
        """The task of a batch: of several, which two that were at it at once may have made, the first."""
        title = self.title(batch)
        found = sorted((task for task in client.tasks.list(name=title) if task.name == title), key=lambda one: one.id)
        return found[0] if found else None

    def _settled(self, client: Any, task: Any) -> Any | None:
        """A task without pictures once they are there; None after deleting one to which none will come."""
        _await(client, task, "create")
        if task.fetch().size:
            return task
        task.remove()
        return None

    def _made(self, client: Any, batch: Batch) -> Any:
        labels = [{"name": name, "type": "rectangle", "attributes": []} for name in batch.classes]
        task = client.tasks.create(
            {"name": self.title(batch.id), "labels": labels, "segment_size": self.pictures, "overlap": 0}
        )
        first = self._found(client, batch.id)
        if first is not None and first.id != task.id:
            task.remove()
            raise LabelingError(f"{batch.id}: somebody else is handing it over, as task {first.id}; run again")
        return task

    def _upload(self, task: Any, batch: Batch, pictures: Mapping[str, str]) -> None:
        names = [str(name) for name in batch.frames["name"]]
        with temporary.folder() as scratch:
            files = {name: Path(scratch) / name for name in names}
            self.storage.download({pictures[name]: path for name, path in files.items()})
            # In the order of the batch, which is that of their use.
            how = {"image_quality": QUALITY, "sorting_method": "predefined", "use_cache": True}
            task.upload_data(list(files.values()), params=how)

    def _propose(self, task: Any, batch: Batch) -> None:
        """Draws the proposals, all at once; whoever has begun, and be it by deleting them, has other boxes."""
        if not len(batch.proposals) or any(_begun(job) for job in _jobs(task)):
            return
        drawn = task.get_annotations()
        if drawn.shapes or drawn.tracks:
            return
        ids = {label.name: label.id for label in task.get_labels()}
        numbers = {info.name: i for i, info in enumerate(task.get_frames_info())}
        rows = batch.proposals[batch.proposals["class"].isin(ids) & batch.proposals["name"].isin(numbers)]
        places = rows[["x1", "y1", "x2", "y2"]].astype(float).to_numpy().tolist()
        task.set_annotations(
            {
                "version": 0,
                "tags": [],
                "tracks": [],
                "shapes": [
                    {
                        **{"type": "rectangle", "source": "auto", "frame": numbers[name], "label_id": ids[label]},
                        **{"points": points, "occluded": False, "z_order": 0, "group": 0, "attributes": []},
                    }
                    for name, label, points in zip(rows["name"], rows["class"], places, strict=True)
                ],
            }
        )

    # Bringing in -----------------------------------------------------------------------------------------------------

    def finished(self, batch: Batch, place: str, folder: Path) -> Finished:
        """What is in completed jobs; pictures that an annotator has removed from the task were refused."""
        with self._asking(batch.id, place) as client:
            task = client.tasks.retrieve(int(place))
            jobs = [job for job in _jobs(task) if self._is_finished(job)]
            meta = task.get_meta()
            who = {
                meta.frames[number].name: job
                for job in jobs
                for number in range(job.start_frame, min(job.stop_frame + 1, len(meta.frames)))
            }
            refused = {meta.frames[number].name for number in meta.deleted_frames if number < len(meta.frames)}
            done, skipped = list(who), [name for name in who if name in refused]
            if len(done) == len(skipped):
                return Finished((), done, skipped)
            archive = folder / "export.zip"
            self._export(client, task, archive)
        boxes, problems = _read(archive, folder)
        boxes = boxes[boxes["frame_name"].isin(who) & ~boxes["frame_name"].isin(refused)]
        drawn_by = [who[name] for name in boxes["frame_name"]]
        boxes["annotator"] = [_name(job) or told for job, told in zip(drawn_by, boxes["annotator"], strict=True)]
        boxes["reviewed"] |= np.array([str(job.stage) == STAGES[-1] for job in drawn_by], dtype=bool)
        classes = list(dict.fromkeys([*batch.classes, *boxes["class"].dropna()]))
        saved = coco.save(boxes.reset_index(drop=True), classes, folder / "finished.json")
        return Finished(saved.files, done, skipped, [*problems, *saved.problems])

    def _export(self, client: Any, task: Any, archive: Path) -> None:
        from cvat_sdk.exceptions import ApiException

        def export() -> None:
            task.export_dataset(FORMAT, archive, include_images=False, location="local")

        try:
            export()
        except ApiException as error:
            if error.status != CONFLICT:
                raise
            # Somebody who was killed, or is at it, too, has asked for the same.
            _await(client, task, "export")
            export()

    def stamp(self, batch: str, place: str) -> str:
        """When what is in completed jobs was changed last, and which pictures were removed."""
        with self._asking(batch, place) as client:
            task = client.tasks.retrieve(int(place))
            jobs = [job for job in _jobs(task) if self._is_finished(job)]
            gone = task.get_meta().deleted_frames if jobs else []
            told = [(job.id, str(job.stage), str(job.state), _name(job), str(job.updated_date)) for job in jobs]
        return hashlib.sha256(repr((told, sorted(gone))).encode()).hexdigest()[:16]

    def _is_finished(self, job: Any) -> bool:
        passed, wanted = STAGES.index(str(job.stage)), STAGES.index(self.stage)
        return passed > wanted or (passed == wanted and str(job.state) == "completed")

    # Asking ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self, what: str, place: str = "") -> Iterator[Any]:
        """A client that is logged in; what goes wrong is told in words of ours."""
        try:
            from cvat_sdk.core.client import AccessTokenCredentials, Client, Config, PasswordCredentials
        except ImportError as error:
            why = f"CVAT's SDK is not installed ({error})"
            raise LabelingError(f"{why}: pip install 'detection-assets[cvat]'") from error
        import urllib3
        from cvat_sdk import exceptions
        from cvat_sdk.core.exceptions import CvatSdkException

        who: Any = AccessTokenCredentials(self.key) if self.key else PasswordCredentials(self.user, self.password)
        try:
            with Client(self.url, config=Config(status_check_period=self.poll_s), check_server_version=False) as client:
                _patient(client.api_client.rest_client)
                client.organization_slug = self.organization
                client.login(who)
                yield client
        except exceptions.ApiException as error:
            raise LabelingError(f"{what}: {self._refusal(error, what, place)}") from error
        except (CvatSdkException, exceptions.OpenApiException) as error:
            raise LabelingError(f"{what}: CVAT at {self.url} did not do it: {_short(error)}; run again") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, FileNotFoundError | Told):
                raise  # of the lake
            remedy = "correct DETECTION_CVAT_URL or the network, and run again"
            raise UnreachableError(f"{what}: CVAT at {self.url} was not reached: {_short(error)}; {remedy}") from error

    def _refusal(self, error: Any, what: str, place: str) -> str:
        said = _short(error.body if isinstance(error.body, str) else error.reason or error)
        if error.status == 401 or (error.status == 400 and "Unable to log in" in said):
            return f"CVAT at {self.url} knows no such user: {said}; correct DETECTION_CVAT_KEY, or user and password"
        if error.status == 403:
            return f"CVAT at {self.url} does not allow it: {said}; give this user the right, or set DETECTION_CVAT_ORG"
        if error.status == 404 and place:
            give_up = f"detection collect {self.detector} --close {what}"
            return (
                f"CVAT at {self.url} has no task {place} any more; give the batch up ({give_up}), or hand it over again"
            )
        if error.status in BUSY or not error.status:
            return f"CVAT at {self.url} does not answer ({error.status}): {said}; run again"
        return f"CVAT at {self.url} refuses it ({error.status}): {said}"

    def check(self) -> Iterator[Finding]:
        """Logs in, and asks who that is and which CVAT it is."""
        try:
            with self._asking("CVAT") as client:
                version = client.get_server_version()
                user = client.api_client.users_api.retrieve_self()[0].username
        except LabelingError as error:
            yield Finding("labelling in CVAT", "bad", self.url, str(error))
            return
        yield Finding("labelling in CVAT", "good", f"{self.url}: version {version}, as {user}")


def _jobs(task: Any) -> Sequence[Any]:
    """The jobs in which people annotate, in the order of their pictures."""
    return sorted((job for job in task.get_jobs() if str(job.type) == "annotation"), key=lambda job: job.start_frame)


def _await(client: Any, task: Any, action: str) -> None:
    """Waits until CVAT is through with what somebody has asked for, well or not."""
    from cvat_sdk.core.exceptions import BackgroundRequestException

    for one in client.api_client.requests_api.list(task_id=task.id, action=action, target="task")[0].results:
        if str(one.status) in ("queued", "started"):
            with suppress(BackgroundRequestException):
                client.wait_for_completion(one.id)


def _begun(job: Any) -> bool:
    return (str(job.stage), str(job.state)) != (STAGES[0], "new")


def _name(job: Any) -> str | None:
    return str(job.assignee.username) if job.assignee else None


def _read(archive: Path, folder: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """What an export has: every box, and the pictures without one.

    Raises:
        LabelingError: It is no export of CVAT's.
    """
    xml = folder / "annotations.xml"
    try:
        with zipfile.ZipFile(archive) as packed:
            if packed.getinfo(xml.name).file_size > MOST_BYTES:
                raise LabelingError(f"CVAT's export is larger than {MOST_BYTES >> 20} MiB; hand over smaller batches")
            xml.write_bytes(packed.read(xml.name))
    except (zipfile.BadZipFile, KeyError) as error:
        raise LabelingError(f"CVAT's export is not what it was asked for: {error}; run again") from error
    parsed = cvat.load([xml], folder)
    for path in (archive, xml):
        path.unlink()
    return parsed.boxes.copy(), parsed.problems


def _patient(rest: Any) -> None:
    """Gives requests an end, and asks again where the server was busy and asking changes nothing."""
    import time

    from cvat_sdk import exceptions

    plain = rest.request

    def request(method: str, url: str, **given: Any) -> Any:
        given["_request_timeout"] = given.get("_request_timeout") or ANSWER_S
        for pause in (0.5, 2.0):
            try:
                return plain(method, url, **given)
            except exceptions.ApiException as error:
                if method.upper() not in ("GET", "HEAD") or error.status not in BUSY:
                    raise
                time.sleep(pause)
        return plain(method, url, **given)

    rest.request = request


def _short(said: object) -> str:
    return " ".join(str(said).split())[:300]
