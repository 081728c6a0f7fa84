"""Labels by way of a Label Studio server: a project a batch, with a task a picture.

A project is found again by its title, a task by what its data says of it, so what was done by a call that was killed is
seen by the next. Two calls at once, or a request whose answer got lost, may leave something twice: the later one goes
where nobody has begun with it. What annotators have submitted is finished, what all of them have skipped is refused,
drafts are theirs.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field

from detection_assets.domain import file_names
from detection_assets.domain.formats import label_studio
from detection_assets.domain.formats.saving import SavedFrame, frames_to_save
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem
from resources.findings import Finding
from resources.label_studio_calls import GoneError, Server, UnansweredError, chunks
from resources.labeling.base import Finished, Handed, Labeling, LabelingError, gone, proposed

AT_ONCE = 20
"""Pictures of one upload, and tasks of one import: little is done again when its answer gets lost."""
ROUNDS = 3
"""How often it is looked what a lost answer has left undone."""
BESIDE = {"s3": "s3", "az": "azure", "file": "localfiles"}
"""What Label Studio calls a connection to a lake, by the lake's scheme."""


class LabelStudioLabeling(Labeling):
    """Batches as projects of a Label Studio server.

    Attributes:
        url: Its address.
        key: An access token of its user whose projects they are.
        pictures: `upload` them to the server, or let them be `served` from the lake: a connection is made to the lake
            in the project, with the rights that the server has by itself.
        root: The folder of this machine that the server serves local files from; only for a lake that is a folder.
    """

    url: str
    key: str = Field(repr=False)
    pictures: Literal["upload", "served"] = "upload"
    root: str = "/"

    @property
    def tool(self) -> str:
        """The word for it in settings and notes."""
        return "label_studio"

    @property
    def server(self) -> Server:
        """The server."""
        return Server(self.url.rstrip("/"), self.key)

    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Makes the batch's project and the tasks that it has not.

        Raises:
            LabelingError: The server refuses or does not answer.
            FileNotFoundError: A picture is gone from the lake.
        """
        server = self.server
        project = self._project(server, batch)
        drawn = {frame.name: frame for frame in frames_to_save(proposed(batch), batch.classes)}
        for attempt in range(ROUNDS):
            there = self._tasks(server, project)
            missing = [name for name in drawn if name not in there]
            try:
                for names in chunks(missing, AT_ONCE):
                    urls = self._urls(server, project, {name: pictures[name] for name in names})
                    tasks = [self._task(batch, drawn[name], urls[name]) for name in names]
                    server.send("POST", f"/api/projects/{project}/import", tasks)
                break
            except UnansweredError:
                # Perhaps it was done all the same: what is there now says so.
                if attempt == ROUNDS - 1:
                    raise
                time.sleep(server.first_wait_s)
        there = self._tasks(server, project)
        for name in there:
            for double in sorted(there[name], key=lambda task: (not _begun(task), task["id"]))[1:]:
                if not _begun(double):
                    server.send("DELETE", f"/api/tasks/{double['id']}/")
        return Handed(batch.id, self.tool, str(project), f"{server.url}/projects/{project}/data", len(there))

    def _task(self, batch: Batch, frame: SavedFrame, url: str) -> dict[str, Any]:
        """A task to import. What its data says comes as columns, in this order."""
        task = label_studio.task(frame, url, model_version=batch.model or "proposed")
        row = batch.frames[batch.frames["name"] == frame.name].iloc[0]
        about = {"image": url, "why": str(row["why"]), "video": str(row["video"])}
        return {**task, "data": {**about, **task["data"], "batch": batch.id}}

    def _project(self, server: Server, batch: Batch) -> int:
        """The batch's project, made if there is none; of two that were made at once the first."""
        found = self._projects(server, batch)
        if not found:
            # A title has fifty characters at most.
            title = f"{self.detector[:33]} {batch.id}"
            told = {
                "title": title,
                "description": f"{len(batch.frames)} pictures for the detector {self.detector}",
                "label_config": label_studio.config(batch.classes),
                "model_version": batch.model or "proposed",
                "show_collab_predictions": True,
                "skip_queue": "IGNORE_SKIPPED",
            }
            try:
                server.send("POST", "/api/projects/", told)
            except UnansweredError:
                time.sleep(server.first_wait_s)
            found = self._projects(server, batch)
            if not found:
                raise LabelingError(f"{server.url} made no project {title!r} and did not say why; run again")
        for other in found[1:]:
            if other["task_number"] == 0:
                server.send("DELETE", f"/api/projects/{other['id']}/")
        return int(found[0]["id"])

    def _projects(self, server: Server, batch: Batch) -> list[dict[str, Any]]:
        found = server.get("/api/projects/", title=batch.id, page_size=100)["results"]
        mine = [project for project in found if str(project["title"]).rpartition(" ")[2] == batch.id]
        return sorted(mine, key=lambda project: int(project["id"]))

    def _tasks(self, server: Server, project: int) -> dict[str, list[dict[str, Any]]]:
        """The tasks of each picture, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for task in server.tasks(project, "all"):
            found.setdefault(str(task["data"].get("frame")), []).append(task)
        return found

    # Pictures --------------------------------------------------------------------------------------------------------

    def _urls(self, server: Server, project: int, keys: Mapping[str, str]) -> dict[str, str]:
        """Where Label Studio finds each picture, by name."""
        if self.pictures == "served":
            self._connect(server, project)
            return {name: self._served(key) for name, key in keys.items()}
        short = {name: _short(name) for name in keys}
        there = self._uploaded(server, project)
        missing = {short[name]: key for name, key in keys.items() if short[name] not in there}
        if missing:
            found = self.storage.get_many(list(missing.values()))
            files = {name: data for name, data in zip(missing, found, strict=True) if data is not None}
            if len(files) < len(missing):
                lost = sorted(set(missing) - set(files))
                raise FileNotFoundError(f"{missing[lost[0]]}{f' and {len(lost) - 1} more' if lost[1:] else ''}")
            server.upload(f"/api/projects/{project}/import", files, commit_to_project="false")
            there = self._uploaded(server, project)
        return {name: f"/data/{there[short[name]]}" for name in keys}

    def _uploaded(self, server: Server, project: int) -> dict[str, str]:
        """What was uploaded to a project: where it lies, by the name that it was given."""
        found = server.get(f"/api/projects/{project}/file-uploads", all="true")
        # The server puts eight digits and a dash before a name.
        return {PurePosixPath(item["file"]).name.partition("-")[2]: str(item["file"]) for item in found}

    def _served(self, key: str) -> str:
        uri = self.storage.uri_of(key)
        parts = urlsplit(uri)
        if parts.scheme == "s3":
            return uri
        if parts.scheme == "az":
            return f"azure-blob://{parts.netloc}{parts.path}"
        path = self.storage.local_path(key)
        assert path is not None
        return f"/data/local-files/?d={quote(path.relative_to(self.root).as_posix())}"

    def _connect(self, server: Server, project: int) -> None:
        """Lets a project read the lake, by the rights that the server has; nothing is imported that way."""
        parts = urlsplit(self.storage.uri)
        kind = BESIDE[parts.scheme]
        prefix = parts.path.strip("/")
        title = f"the lake of {self.detector}"
        if any(item["title"] == title for item in server.get(f"/api/storages/{kind}", project=project)):
            return
        told: dict[str, Any] = {"project": project, "title": title, "use_blob_urls": True, "regex_filter": "nothing"}
        if kind == "localfiles":
            told["path"] = str(self.storage.local_path(""))
        else:
            told |= {"prefix": prefix, "presign": True, ("bucket" if kind == "s3" else "container"): parts.netloc}
        try:
            server.send("POST", f"/api/storages/{kind}", told)
        except GoneError:
            raise
        except LabelingError as error:
            raise LabelingError(
                f"{error}; let the server read {self.storage.uri} (docs/labeling.md), or set "
                "DETECTION_LABEL_STUDIO_PICTURES=upload"
            ) from None

    # What is finished ------------------------------------------------------------------------------------------------

    def stamp(self, batch: str, place: str) -> str:
        """How many annotations there are, and when a task was last touched."""
        try:
            # A tick does not wait for long; there will be another.
            server = Server(self.url.rstrip("/"), self.key, attempts=2, timeout_s=15)
            latest = server.get(f"/api/projects/{place}/tasks/", page=1, page_size=1)
            counted = server.get("/api/tasks/", project=place, page=1, page_size=1, fields="task_only")
        except GoneError:
            raise gone(batch, f"the project {place} on {self.url}", self.detector) from None
        touched = [(task["id"], task["updated_at"]) for task in latest]
        told = json.dumps([touched, counted["total"], counted["total_annotations"]])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def finished(self, batch: Batch, place: str, folder: Path) -> Finished:
        """What was submitted, each annotator's last word on each picture."""
        server = self.server
        try:
            people = {person["id"]: person for person in self._people(server)}
            tasks = list(server.tasks(int(place), "all"))
        except GoneError:
            raise gone(batch.id, f"the project {place} on {self.url}", self.detector) from None
        names = {str(name) for name in batch.frames["name"]}
        said: dict[tuple[str, Any], tuple[dict[str, Any], dict[str, Any]]] = {}
        skipped: set[str] = set()
        problems: list[Problem] = []
        for task in tasks:
            name = str(task["data"].get("frame"))
            if name not in names:
                what = f"task {task['id']} is of no picture of the batch"
                problems.append(Problem(f"{self.url}/projects/{place}", "", what, "left out"))
                continue
            for annotation in task["annotations"]:
                if annotation["was_cancelled"]:
                    skipped.add(name)
                    continue
                before = said.get((name, annotation["completed_by"]))
                if before is None or before[1]["updated_at"] <= annotation["updated_at"]:
                    said[name, annotation["completed_by"]] = (task, annotation)
        done = {name for name, _ in said}
        skipped -= done
        if not said:
            return Finished((), sorted(skipped), sorted(skipped), problems)
        # Who spoke last comes last, for it is he who may count alone.
        found = [
            {
                "id": task["id"],
                "data": task["data"],
                "annotations": [{**annotation, "completed_by": people.get(by, by)}],
            }
            for (_, by), (task, annotation) in sorted(said.items(), key=lambda one: one[1][1]["updated_at"])
        ]
        file = folder / f"project-{place}.json"
        file.write_text(json.dumps(found))
        return Finished([file], sorted(done | skipped), sorted(skipped), problems)

    def _people(self, server: Server) -> Sequence[dict[str, Any]]:
        """Who annotates, with their mail addresses; nobody where the key may not ask."""
        try:
            found = server.get("/api/users/")
        except LabelingError as error:
            if isinstance(error, GoneError) or "may not" in str(error):
                return ()
            raise
        return [{"id": person["id"], "email": person["email"]} for person in found]

    def check(self) -> Iterator[Finding]:
        """Looks whether the server opens to the key."""
        try:
            server = self.server
            version = server.get("/api/version").get("release", "")
            who = server.get("/api/current-user/whoami").get("email", "")
        except LabelingError as error:
            yield Finding("labeling", "bad", *str(error).split("; ", 1))
            return
        yield Finding("labeling", "good", f"Label Studio {version} at {self.url}, as {who}")


def _begun(task: Mapping[str, Any]) -> bool:
    return bool(task["annotations"] or task["drafts"])


def _short(name: str) -> str:
    """What a picture is called when it is uploaded: Label Studio cuts names that are long and changes odd ones."""
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{file_names.suffix(name)}"
