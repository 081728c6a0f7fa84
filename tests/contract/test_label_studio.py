"""What is particular about a Label Studio server: its two kinds of keys, its refusals, and answers that get lost."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from contract.annotators import InLabelStudio
from contract.test_labeling import APPLE, CLIP, COLA, World, opened, publish
from fakes import label_studio, s3

from resources.label_studio_calls import GoneError, Server, UnansweredError
from resources.labeling.base import LabelingError, UnreachableError
from resources.labeling.label_studio import LabelStudioLabeling

KEY = label_studio.PEOPLE[label_studio.OWNER]


@pytest.fixture
def world(
    label_studio_server: label_studio.LabelStudio, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    people = InLabelStudio(label_studio_server)
    for name, value in people.settings.items():
        monkeypatch.setenv(name, value)
    with opened() as resources:
        yield World(resources.labeling, people, publish(resources.storage))
    people.clear()


def test_a_personal_access_token_is_renewed_when_it_has_expired(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people = world.people
    assert isinstance(people, InLabelStudio)
    people.server.ask("POST", "/api/jwt/settings", {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    token = people.server.ask("POST", "/api/token/", {})["token"]
    assert token.count(".") == 2
    server = Server(people.server.url, token)
    assert server.get("/api/current-user/whoami")["email"] == label_studio.OWNER
    monkeypatch.setattr(server, "_short_lived", "expired")
    assert server.get("/api/current-user/whoami")["email"] == label_studio.OWNER
    (good,) = LabelStudioLabeling(storage=world.storage, detector="tiny", url=people.server.url, key=token).check()
    assert good.state == "good"
    assert label_studio.OWNER in good.told
    with pytest.raises(LabelingError, match="refuses the key"):
        Server(people.server.url, token[:-3] + "abc").get("/api/projects/")


def test_a_wrong_key_is_told_without_telling_it(world: World) -> None:
    labeling = world.labeling
    assert isinstance(labeling, LabelStudioLabeling)
    wrong = LabelStudioLabeling(storage=world.storage, detector="tiny", url=labeling.url, key="secret-" * 5)
    (bad,) = wrong.check()
    assert bad.state == "bad"
    assert "refuses the key" in bad.told
    assert "DETECTION_LABEL_STUDIO_KEY" in bad.remedy
    assert "secret-" not in f"{bad} {wrong!r}"
    with pytest.raises(LabelingError, match="DETECTION_LABEL_STUDIO_KEY"):
        wrong.request(world.batch.id)


def test_pictures_are_served_from_the_lake(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTION_LABEL_STUDIO_PICTURES", "served")
    with opened() as resources:
        place = resources.labeling.request(world.batch.id).place
        assert resources.labeling.request(world.batch.id).place == place
    people = world.people
    assert isinstance(people, InLabelStudio)
    assert sorted(people.sees(place)) == sorted(world.names)
    assert len(people.server.ask("GET", f"/api/storages/localfiles?project={place}")) == 1
    assert people.server.ask("GET", f"/api/projects/{place}/file-uploads?all=true") == []


@pytest.mark.long
def test_pictures_on_s3_are_served_by_signed_addresses(
    s3_lake: str, s3_server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTION_LAKE", s3_lake)
    (tmp_path / "server").mkdir()
    with label_studio.serving(tmp_path / "server", s3.environment(s3_server)) as server:
        people = InLabelStudio(server)
        for name, value in {**people.settings, "DETECTION_LABEL_STUDIO_PICTURES": "served"}.items():
            monkeypatch.setenv(name, value)
        with opened() as resources:
            batch = publish(resources.storage)
            place = resources.labeling.request(batch.id).place
        asked = {task["data"]["frame"]: task["data"]["image"] for task in people.tasks(place)}
        assert sorted(asked) == sorted(batch.frames["name"])
        for task in server.ask("GET", f"/api/projects/{place}/tasks/?page_size=100"):
            shown = server.ask("GET", f"/api/tasks/{task['id']}/?resolve_uri=true")["data"]["image"]
            assert server.download(shown).startswith(b"\xff\xd8")


def test_what_an_annotator_says_twice_of_a_picture_counts_once(world: World) -> None:
    place, name = world.hand_over(), world.names[0]
    people = world.people
    assert isinstance(people, InLabelStudio)
    people.submit(place, name, [APPLE, COLA])
    task = people.sees_task(place, name)["id"]
    people.server.ask("POST", f"/api/tasks/{task}/annotations/", {"result": []})
    world.collect()
    assert world.boxes(CLIP) == {name: []}


def test_what_is_there_is_not_listed_for_each_picture(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[int] = []
    tasks = Server.tasks

    def counted(self: Server, project: int, fields: str) -> Iterator[dict[str, Any]]:
        listed.append(project)
        return tasks(self, project, fields)

    monkeypatch.setattr(Server, "tasks", counted)
    world.hand_over()
    assert len(listed) == 2, "before and after"


def test_an_answer_that_got_lost_doubles_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people = world.people
    assert isinstance(people, InLabelStudio)
    lost: list[str] = []

    def lose(method: str, path: str) -> bool:
        """The first answer to each kind of change."""
        kind = f"{method} {path.partition('?')[0]}" + (" upload" if "commit_to_project" in path else "")
        if method == "GET" or kind in lost:
            return False
        lost.append(kind)
        return True

    with forwarding(people.server.url, lose) as url:
        monkeypatch.setenv("DETECTION_LABEL_STUDIO_URL", url)
        with opened() as resources:
            place = resources.labeling.request(world.batch.id).place
    assert len(lost) == 3
    assert sorted(people.sees(place)) == sorted(world.names)
    assert len(people.server.ask("GET", f"/api/projects/{place}/file-uploads?all=true")) == len(world.names)
    assert people.server.ask("GET", "/api/projects/")["count"] == 1


def test_a_picture_that_is_there_twice_loses_the_one_that_nobody_has_begun(world: World) -> None:
    place, name = world.hand_over(), world.names[0]
    people = world.people
    assert isinstance(people, InLabelStudio)
    first = people.sees_task(place, name)
    people.server.ask("POST", f"/api/projects/{place}/import", [{"data": first["data"]}])
    doubles = [task["id"] for task in people.tasks(place) if task["data"]["frame"] == name]
    people.server.ask("POST", f"/api/tasks/{doubles[1]}/drafts", {"result": [], "lead_time": 1.0})
    world.hand_over()
    assert people.sees_task(place, name)["id"] == doubles[1]


# A server that is not well ------------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers one after another, the last one again and again; its address and its log."""
    left, asked = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(f"{self.command} {self.path}")
            code, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, asked


@contextmanager
def forwarding(url: str, lose: Callable[[str, str], bool]) -> Iterator[str]:
    """Somebody before a server who passes everything on, and of some answers nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            there = http.client.HTTPConnection(urlsplit(url).netloc)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            there.request(self.command, self.path, body, kept)
            answer = there.getresponse()
            data = answer.read()
            there.close()
            if lose(self.command, self.path):
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as front:
        yield front


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


GOOD = (200, {}, b'{"ok": 1}')


def server_at(url: str) -> Server:
    return Server(url, KEY, first_wait_s=0.01)


def test_what_a_server_cannot_do_for_the_moment_is_asked_again() -> None:
    busy = [(429, {"Retry-After": "0"}, b""), (500, {}, b""), (502, {}, b""), (503, {}, b"")]
    with answering(*busy, GOOD) as (url, asked):
        assert server_at(url).get("/x") == {"ok": 1}
    assert len(asked) == 5
    with answering((429, {"Retry-After": "0"}, b""), (503, {}, b""), GOOD) as (url, asked):
        assert server_at(url).send("POST", "/x", {}) == {"ok": 1}
    with (
        answering((503, {}, b'{"detail": "maintenance"}')) as (url, asked),
        pytest.raises(LabelingError, match="maint"),
    ):
        server_at(url).get("/x")
    assert len(asked) == 5


def test_a_change_of_which_nobody_knows_whether_it_was_done_is_not_repeated() -> None:
    with answering((502, {}, b"")) as (url, asked), pytest.raises(UnansweredError):
        server_at(url).send("POST", "/x", {})
    assert len(asked) == 1
    with answering((500, {}, b"")) as (url, asked), pytest.raises(LabelingError):
        server_at(url).send("POST", "/x", {})
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ((200, {}, b"<html>log in</html>"), LabelingError, "is no Label Studio"),
        (
            (301, {"Location": "https://there.example.org/api/x"}, b""),
            LabelingError,
            "URL to https://there.example.org$",
        ),
        ((404, {}, b'{"detail": "No Project matches"}'), GoneError, "No Project matches"),
        ((403, {}, b'{"detail": "no"}'), LabelingError, "may not GET /x"),
        ((400, {}, b'{"validation_errors": {"title": ["too long"]}}'), LabelingError, "too long"),
    ],
)
def test_refusals_are_told_in_words(
    answer: tuple[int, dict[str, str], bytes], error: type[Exception], told: str
) -> None:
    with answering(answer) as (url, asked), pytest.raises(error, match=told) as raised:
        server_at(url).get("/x")
    assert len(asked) == 1
    assert KEY not in str(raised.value)


def test_a_server_that_is_down_is_told_with_what_to_do() -> None:
    with answering(GOOD) as (url, _):
        pass
    with pytest.raises(UnreachableError, match="start Label Studio, or correct DETECTION_LABEL_STUDIO_URL"):
        server_at(url).get("/x")
