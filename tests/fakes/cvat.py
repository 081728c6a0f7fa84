"""A CVAT on this machine: what its own SDK asks of a server, kept and refused as CVAT does it, and real exports.

Requests, replies and refusals are those of CVAT 2.x. What is done in the background there (taking pictures in, writing
an export) is asked about as there, and is done at once.
"""

from __future__ import annotations

import datetime
import io
import json
import re
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

TOKEN = "cvat-token"
USER, PASSWORD = "boss", "secret & long"
ORGANIZATION = "shop"
VERSION = "2.80.0"
PAGE = 10
"""Things on a page of a list, unless more are asked for."""
NOW = "2026-01-01T10:00:00.000000Z"


class Refused(Exception):
    """What CVAT answers instead: a status and a body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


@dataclass
class Job:
    """Some pictures of a task, which one person annotates."""

    id: int
    start: int
    stop: int
    stage: str = "annotation"
    state: str = "new"
    assignee: str | None = None
    updated: int = 0


@dataclass
class Task:
    """A task.

    Attributes:
        arriving: Pictures on their way, by name.
        frames: Those it has taken in: name, width, height.
        deleted: Numbers of frames that somebody has removed.
        shapes: As the interface has them.
    """

    id: int
    name: str
    organization: str
    labels: dict[str, int]
    segment: int
    arriving: dict[str, bytes] = field(default_factory=dict)
    frames: list[tuple[str, int, int]] = field(default_factory=list)
    deleted: set[int] = field(default_factory=set)
    jobs: list[Job] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    updated: int = 0

    def job_of(self, name: str) -> Job:
        """The job that a picture is in."""
        number = self.number(name)
        return next(job for job in self.jobs if job.start <= number <= job.stop)

    def number(self, name: str) -> int:
        """The number of a picture."""
        return [frame[0] for frame in self.frames].index(name)


class Cvat:
    """A server.

    Attributes:
        url: Its address.
        tasks: Every task by its id.
        calls: What was asked for, as `POST /api/tasks`.
        before: Given what is asked for, raises `Refused` or anything else in CVAT's place.
        waits: How often whoever asks is told that something in the background is not done yet.
    """

    def __init__(self) -> None:
        self.url = ""
        self.tasks: dict[int, Task] = {}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.waits = 1
        self._numbers, self._ticks = iter(range(1, 10**6)), 0
        self._requests: dict[str, dict[str, Any]] = {}
        self._exports: dict[str, bytes] = {}
        self._sessions: set[str] = set()
        self._lock = threading.RLock()

    # People ----------------------------------------------------------------------------------------------------------

    def draw(
        self, task: Task, name: str, boxes: Sequence[tuple[Any, ...]], who: str = "ann", state: str = "in progress"
    ) -> None:
        """Draws the boxes of a picture in the browser and saves: class, corners, and what else a shape says."""
        number, job = task.number(name), task.job_of(name)
        task.shapes = [shape for shape in task.shapes if shape["frame"] != number]
        for label, *corners in boxes:
            more = corners.pop() if isinstance(corners[-1], dict) else {}
            shape = {
                "type": "rectangle",
                "source": "manual",
                "occluded": False,
                "z_order": 0,
                "group": 0,
                "attributes": [],
            }
            at = {"frame": number, "label_id": task.labels[label], "points": [float(side) for side in corners]}
            self._keep(task, {**shape, **at, **more})
        job.assignee, job.state = who, state
        self._touch(task, job)

    def finish(self, task: Task, name: str, stage: str = "") -> None:
        """Says that the job of a picture is finished, or moves it to another stage."""
        job = task.job_of(name)
        if stage:
            job.stage, job.state = stage, "new"
        else:
            job.state = "completed"
        self._touch(task, job)

    def remove(self, task: Task, name: str) -> None:
        """Removes a picture from the task, as somebody does who can make nothing of it."""
        task.deleted.add(task.number(name))
        self._touch(task, task.job_of(name))

    def _touch(self, task: Task, job: Job) -> None:
        self._ticks += 1
        task.updated = job.updated = self._ticks

    def _keep(self, task: Task, shape: dict[str, Any]) -> None:
        task.shapes.append({**shape, "id": next(self._numbers)})

    # The interface ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Any:
        """Does what is asked; gives what is told, or raises `Refused`."""
        self.before(f"{method} {path.rstrip('/')}")
        if path == "/api/server/about":
            about = {"name": "Computer Vision Annotation Tool", "description": "", "version": VERSION}
            return 200, {**about, "logo_url": "", "subtitle": ""}
        if (method, path) == ("POST", "/api/auth/login"):
            return self._login(json.loads(body))
        self._who(headers)
        organization = query.get("org", headers.get("x-organization", ""))
        if "org_id" in query:
            organization = ORGANIZATION if query["org_id"] == "1" else query["org_id"]
        if organization not in ("", ORGANIZATION):
            raise Refused(404, {"detail": f"{organization} organization does not exist."})
        for verb, pattern, does in self._routes:
            found = re.fullmatch(pattern, path.rstrip("/"))
            if found and verb == method:
                with self._lock:
                    return does(self, *found.groups(), query=query, headers=headers, body=body, org=organization)
        raise Refused(404, {"detail": "Not found."})

    def _login(self, asked: Mapping[str, str]) -> Any:
        if (asked.get("username"), asked.get("password")) != (USER, PASSWORD):
            raise Refused(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
        session = uuid.uuid4().hex
        self._sessions.add(session)
        return 200, {"key": session}, [f"sessionid={session}; Path=/", f"csrftoken={session[::-1]}; Path=/"]

    def _who(self, headers: Mapping[str, str]) -> None:
        cookies = dict(part.strip().split("=", 1) for part in headers.get("cookie", "").split(";") if "=" in part)
        if cookies.get("sessionid") in self._sessions:
            if headers.get("x-csrftoken", cookies["sessionid"][::-1]) != cookies["sessionid"][::-1]:
                raise Refused(403, {"detail": "CSRF Failed: CSRF token incorrect."})
            return
        given = headers.get("authorization", "")
        if not given:
            raise Refused(401, {"detail": "Authentication credentials were not provided."})
        if given != f"Bearer {TOKEN}":
            raise Refused(401, {"detail": "Invalid token."})

    def _self(self, **_: Any) -> Any:
        return 200, {"id": 1, "username": USER, "groups": ["admin"], "url": f"{self.url}/api/users/1"}

    def _list_tasks(self, query: Mapping[str, str], org: str, **_: Any) -> Any:
        found = [task for task in self.tasks.values() if task.organization == org]
        if "name" in query:
            found = [task for task in found if task.name == query["name"]]
        # The newest comes first.
        return self._paged([self._told(task) for task in reversed(found)], "tasks", query)

    def _create_task(self, body: bytes, org: str, **_: Any) -> Any:
        asked = json.loads(body)
        names = [label["name"] for label in asked["labels"]]
        if not asked.get("name") or len(asked["name"]) > 256:
            raise Refused(400, {"name": ["Ensure this field has no more than 256 characters."]})
        if len(set(names)) < len(names):
            raise Refused(400, ["All label names must be unique for the task"])
        if long := [name for name in names if len(name) > 64]:
            raise Refused(400, {"labels": [{"name": [f"Ensure this field has no more than 64 characters: {long[0]}"]}]})
        labels = {name: next(self._numbers) for name in names}
        task = Task(next(self._numbers), asked["name"], org, labels, asked.get("segment_size", 0))
        self.tasks[task.id] = task
        return 201, self._told(task)

    def _task(self, number: str, org: str) -> Task:
        task = self.tasks.get(int(number))
        if task is None:
            raise Refused(404, {"detail": "No Task matches the given query."})
        if task.organization != org:
            raise Refused(403, {"detail": "You do not have permission to perform this action."})
        return task

    def _get_task(self, number: str, org: str, **_: Any) -> Any:
        return 200, self._told(self._task(number, org))

    def _delete_task(self, number: str, org: str, **_: Any) -> Any:
        del self.tasks[self._task(number, org).id]
        return 204, None

    def _data(self, number: str, headers: Mapping[str, str], body: bytes, org: str, **_: Any) -> Any:
        task = self._task(number, org)
        if task.frames:
            raise Refused(400, ["Adding more data is not supported"])
        if "upload-start" in headers:
            return 202, {}
        if "upload-multiple" in headers:
            task.arriving |= _files(headers["content-type"], body)
            return 200, {}
        if "upload-finish" not in headers:
            raise Refused(501, "pictures that are uploaded in parts are not made here")
        asked = json.loads(body)
        assert asked["sorting_method"] == "predefined"
        return 202, {"rq_id": self._background(task, "create", lambda: self._take_in(task, asked["upload_file_order"]))}

    def _take_in(self, task: Task, order: Sequence[str]) -> str:
        if sorted(order) != sorted(task.arriving):
            return "Requested files that are not uploaded, or the other way round"
        for name in order:
            try:
                with Image.open(io.BytesIO(task.arriving[name])) as image:
                    task.frames.append((name, *image.size))
            except UnidentifiedImageError:
                task.frames.clear()
                return f"No media data found: {name} is no image"
        task.arriving.clear()
        step = task.segment or len(task.frames)
        for start in range(0, len(task.frames), step):
            task.jobs.append(Job(next(self._numbers), start, min(start + step, len(task.frames)) - 1))
        return ""

    def _background(self, task: Task, action: str, does: Callable[[], str]) -> str:
        name = f"action={action}&target=task&id={task.id}"
        if name in self._requests and self._requests[name]["does"]:
            raise Refused(409, f"{action.capitalize()} process is already started")
        self._requests[name] = {"action": action, "task": task.id, "waits": self.waits, "does": does, "failed": ""}
        return name

    def _told_request(self, name: str) -> dict[str, Any]:
        one = self._requests[name]
        one["waits"] -= 1
        if one["waits"] < 0 and one["does"]:
            one["failed"], one["does"] = one["does"](), None
        status = "started" if one["does"] else "failed" if one["failed"] else "finished"
        told = {"id": name, "status": status, "message": one["failed"], "created_date": NOW}
        if status == "finished" and one["action"] == "export":
            told["result_url"] = f"{self.url}/api/tasks/{one['task']}/dataset/download?rq_id={one['task']}"
        return {**told, "operation": {"type": one["action"], "target": "task", "task_id": one["task"]}}

    def _list_requests(self, query: Mapping[str, str], **_: Any) -> Any:
        task, action = int(query["task_id"]), query.get("action")
        names = [name for name, one in self._requests.items() if one["task"] == task and one["action"] == action]
        return self._paged([self._told_request(name) for name in names], "requests", query)

    def _get_request(self, name: str, **_: Any) -> Any:
        if name not in self._requests:
            raise Refused(404, {"detail": "There is no request with specified id"})
        return 200, self._told_request(name)

    def _meta(self, number: str, org: str, **_: Any) -> Any:
        task = self._task(number, org)
        frames = [
            {"name": name, "width": width, "height": height, "related_files": 0} for name, width, height in task.frames
        ]
        about = {"size": len(frames), "image_quality": 95, "start_frame": 0, "stop_frame": max(len(frames) - 1, 0)}
        return 200, {**about, "frames": frames, "deleted_frames": sorted(task.deleted), "chunks_updated_date": NOW}

    def _list_jobs(self, query: Mapping[str, str], org: str, **_: Any) -> Any:
        task = self._task(query["task_id"], org)
        return self._paged([self._told_job(task, job) for job in task.jobs], "jobs", query)

    def _list_labels(self, query: Mapping[str, str], org: str, **_: Any) -> Any:
        task = self._task(query["task_id"], org)
        made = [
            {"id": number, "name": name, "type": "rectangle", "attributes": []} for name, number in task.labels.items()
        ]
        return self._paged(made, "labels", query)

    def _get_annotations(self, number: str, org: str, **_: Any) -> Any:
        return 200, {"version": 0, "tags": [], "tracks": [], "shapes": self._task(number, org).shapes}

    def _put_annotations(self, number: str, body: bytes, org: str, **_: Any) -> Any:
        task, asked = self._task(number, org), json.loads(body)
        for shape in asked["shapes"]:
            if shape["label_id"] not in task.labels.values():
                raise Refused(400, [f"label_id `{shape['label_id']}` is invalid"])
            if not 0 <= shape["frame"] < len(task.frames):
                raise Refused(400, [f"Frame {shape['frame']} is out of the task"])
            if len(shape["points"]) != 4 or shape["type"] != "rectangle":
                raise Refused(400, [f"a rectangle has four sides: {shape['points']}"])
        task.shapes = []
        for shape in asked["shapes"]:
            self._keep(task, shape)
        return 200, {"version": 0, "tags": [], "tracks": [], "shapes": task.shapes}

    def _export(self, number: str, query: Mapping[str, str], org: str, **_: Any) -> Any:
        task = self._task(number, org)
        if query["format"] != "CVAT for images 1.1":
            raise Refused(400, [f"Unknown format specified for the request: {query['format']}"])
        assert query["save_images"] == "False"

        def write() -> str:
            self._exports[number] = exported(task, self.url)
            return ""

        return 202, {"rq_id": self._background(task, "export", write)}

    def _download(self, number: str, **_: Any) -> Any:
        return 200, self._exports[number]

    _routes: Sequence[tuple[str, str, Callable[..., Any]]] = (
        ("GET", "/api/users/self", _self),
        ("GET", "/api/tasks", _list_tasks),
        ("POST", "/api/tasks", _create_task),
        ("GET", r"/api/tasks/(\d+)", _get_task),
        ("DELETE", r"/api/tasks/(\d+)", _delete_task),
        ("POST", r"/api/tasks/(\d+)/data", _data),
        ("GET", r"/api/tasks/(\d+)/data/meta", _meta),
        ("GET", r"/api/tasks/(\d+)/annotations", _get_annotations),
        ("PUT", r"/api/tasks/(\d+)/annotations", _put_annotations),
        ("POST", r"/api/tasks/(\d+)/dataset/export", _export),
        ("GET", r"/api/tasks/(\d+)/dataset/download", _download),
        ("GET", "/api/requests", _list_requests),
        ("GET", "/api/requests/(.+)", _get_request),
        ("GET", "/api/jobs", _list_jobs),
        ("GET", "/api/labels", _list_labels),
    )

    def _told(self, task: Task) -> dict[str, Any]:
        done = [job for job in task.jobs if (job.stage, job.state) == ("acceptance", "completed")]
        checked = [job for job in task.jobs if job.stage == "validation"]
        counts = {"count": len(task.jobs), "completed": len(done), "validation": len(checked)}
        return {
            "id": task.id,
            "url": f"{self.url}/api/tasks/{task.id}",
            "name": task.name,
            "jobs": {**counts, "url": f"{self.url}/api/jobs?task_id={task.id}"},
            "labels": {"url": f"{self.url}/api/labels?task_id={task.id}"},
            "size": len(task.frames),
            "segment_size": task.segment,
            "overlap": 0,
            "mode": "annotation",
            "dimension": "2d",
            "subset": "",
            "status": "annotation",
            "organization": 1 if task.organization else None,
            "target_storage": None,
            "source_storage": None,
            "created_date": NOW,
            "updated_date": _moment(task.updated),
            "owner": {"id": 1, "username": USER, "url": f"{self.url}/api/users/1"},
            "assignee": None,
        }

    def _told_job(self, task: Task, job: Job) -> dict[str, Any]:
        who = {"id": 2, "username": job.assignee, "url": f"{self.url}/api/users/2"} if job.assignee else None
        return {
            "id": job.id,
            "url": f"{self.url}/api/jobs/{job.id}",
            "task_id": task.id,
            "type": "annotation",
            "stage": job.stage,
            "state": job.state,
            "status": "annotation",
            "start_frame": job.start,
            "stop_frame": job.stop,
            "frame_count": job.stop - job.start + 1,
            "assignee": who,
            "created_date": NOW,
            "updated_date": _moment(job.updated),
            "issues": {"count": 0, "url": f"{self.url}/api/issues?job_id={job.id}"},
            "labels": {"url": f"{self.url}/api/labels?job_id={job.id}"},
            "target_storage": None,
            "source_storage": None,
        }

    def _paged(self, found: Sequence[Any], what: str, query: Mapping[str, str]) -> Any:
        page, size = int(query.get("page", 1)), int(query.get("page_size", PAGE))
        if page > 1 and (page - 1) * size >= len(found):
            raise Refused(404, {"detail": "Invalid page."})
        following = f"{self.url}/api/{what}?page={page + 1}" if page * size < len(found) else None
        return 200, {
            "count": len(found),
            "next": following,
            "previous": None,
            "results": list(found[(page - 1) * size : page * size]),
        }

    # The server ------------------------------------------------------------------------------------------------------

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Answers on a port of this machine."""
        this = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def any_method(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                url, headers = urlparse(self.path), {name.lower(): value for name, value in self.headers.items()}
                query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
                from urllib.parse import unquote

                this.calls.append(f"{self.command} {url.path.rstrip('/')}")
                try:
                    told = this.answer(self.command, unquote(url.path), query, headers, body)
                except Refused as error:
                    told = error.status, error.body
                except Exception as error:
                    told = 500, f"{self.command} {self.path}: {error!r}"
                status, said, *cookies = told
                data = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
                self.send_response(status)
                for cookie in cookies[0] if cookies else ():
                    self.send_header("Set-Cookie", cookie)
                kind = "application/zip" if isinstance(said, bytes) else "application/vnd.cvat+json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = any_method

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            yield
        finally:
            server.shutdown()
            server.server_close()


def exported(task: Task, url: str) -> bytes:
    """The archive that CVAT makes of a task as `CVAT for images`: no frame that was removed, every other one."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    about = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    for name, text in {
        **{"id": task.id, "name": task.name, "size": len(task.frames), "mode": "annotation", "overlap": 0},
        **{"bugtracker": "", "created": NOW, "updated": NOW, "subset": "default", "start_frame": 0},
        **{"stop_frame": len(task.frames) - 1, "frame_filter": ""},
    }.items():
        ElementTree.SubElement(about, name).text = str(text)
    segments = ElementTree.SubElement(about, "segments")
    for job in task.jobs:
        segment = ElementTree.SubElement(segments, "segment")
        told = {"id": job.id, "start": job.start, "stop": job.stop, "url": f"{url}/api/jobs/{job.id}"}
        for name, text in told.items():
            ElementTree.SubElement(segment, name).text = str(text)
    ElementTree.SubElement(ElementTree.SubElement(about, "owner"), "username").text = USER
    ElementTree.SubElement(about, "assignee")
    labels = ElementTree.SubElement(about, "labels")
    for name in task.labels:
        label = ElementTree.SubElement(labels, "label")
        for key, text in (("name", name), ("color", "#906080"), ("type", "rectangle"), ("attributes", "")):
            ElementTree.SubElement(label, key).text = text
    called = {number: name for name, number in task.labels.items()}
    for number, (name, width, height) in enumerate(task.frames):
        if number in task.deleted:
            continue
        frame = {"id": str(number), "name": name, "width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", frame)
        for shape in (one for one in task.shapes if one["frame"] == number):
            says = {
                "label": called[shape["label_id"]],
                "source": shape["source"],
                "occluded": str(int(shape["occluded"])),
            }
            sides = zip(("xtl", "ytl", "xbr", "ybr"), shape["points"], strict=True)
            places = {side: f"{value:.2f}" for side, value in sides}
            ElementTree.SubElement(image, "box", {**says, **places, "z_order": str(shape["z_order"])})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("annotations.xml", ElementTree.tostring(root, "utf-8", xml_declaration=True))
    return out.getvalue()


def _files(kind: str, body: bytes) -> dict[str, bytes]:
    """The files of a form; of their paths a server takes the names alone."""
    form = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    found: dict[str, bytes] = {}
    for part in form.get_payload():  # type: ignore[union-attr]
        name = part.get_filename()  # type: ignore[union-attr]
        if name:
            found[name.rpartition("/")[2]] = part.get_payload(decode=True)  # type: ignore[union-attr,assignment]
    return found


def _moment(tick: int) -> str:
    return (datetime.datetime(2026, 1, 1, 10) + datetime.timedelta(seconds=tick)).isoformat() + ".000000Z"
