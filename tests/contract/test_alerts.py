"""Alerts over a real HTTP server and a real SMTP conversation."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest

from resources import profiles
from resources.alerts import base
from resources.alerts.base import Alert, Alerts
from resources.alerts.local import LogAlerts, MailAlerts, MailTarget, WebhookAlerts, chosen

ALERT = Alert("fridge", "drift in brightness", "median 120 -> 40 <& more>", "warning", "file:///lake/report.html")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "WAITS_S", (0.0, 0.05, 0.05))


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Any]:
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


class Hook(http.server.BaseHTTPRequestHandler):
    answers: list[int]
    got: list[tuple[str, str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.got.append((self.path, self.headers["Content-Type"], body))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.got.append((self.path, "GET", None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def hook(*answers: int) -> Iterator[tuple[str, list[Any]]]:
    handler = type("Handler", (Hook,), {"answers": list(answers), "got": []})
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/services/T00/SECRET", handler.got


class Postman(socketserver.StreamRequestHandler):
    """SMTP as RFC 5321 has it, without extensions."""

    offers: tuple[str, ...]
    refuses: bool
    got: list[tuple[str, list[str], str]]
    said: list[str]

    def handle(self) -> None:
        self.say("220 postman")
        sender, to = "", []
        while line := self.rfile.readline().decode().strip():
            verb = line.split(":")[0].split(" ")[0].upper()
            self.said.append(verb)
            if verb == "EHLO":
                words = ["postman", *self.offers]
                for word in words[:-1]:
                    self.say(f"250-{word}")
                self.say(f"250 {words[-1]}")
            elif verb == "MAIL":
                sender = line.partition(":")[2]
                self.say("250 ok")
            elif verb == "RCPT":
                to.append(line.partition(":")[2])
                self.say("550 no such person" if self.refuses else "250 ok")
            elif verb == "DATA":
                self.say("354 go on")
                lines = []
                while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    lines.append(text)
                self.got.append((sender, to, "\n".join(lines)))
                self.say("250 ok")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def postman(*offers: str, refuses: bool = False) -> Iterator[tuple[str, Any]]:
    handler = type("Handler", (Postman,), {"offers": offers, "refuses": refuses, "got": [], "said": []})
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)) as server:
        yield f"127.0.0.1:{server.server_address[1]}", handler


def test_a_webhook_gets_slacks_json() -> None:
    with hook() as (url, got):
        WebhookAlerts(url=url).send(ALERT)
    ((path, kind, body),) = got
    assert path == "/services/T00/SECRET"
    assert kind == "application/json"
    assert set(body) == {"text"}
    assert body["text"].splitlines() == [
        "*[warning] fridge: drift in brightness*",
        "median 120 -&gt; 40 &lt;&amp; more&gt;",
        "file:///lake/report.html",
    ]


def test_a_hook_that_hiccups_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with hook(503, 500) as (url, got):
        WebhookAlerts(url=url).send(ALERT)
    assert len(got) == 3
    assert "nobody was told" not in caplog.text


@pytest.mark.parametrize("answers", [(404, 404, 404), (302, 302, 302)])
def test_a_hook_that_fails_is_a_warning_without_its_secret(
    answers: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with hook(*answers) as (url, got):
        WebhookAlerts(url=url).send(ALERT)
    assert [kind for _, kind, _ in got] == ["application/json"] * 3, "a redirect is not followed"
    assert "nobody was told" in caplog.text
    assert str(answers[0]) in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    "alerts",
    [
        WebhookAlerts(url="http://127.0.0.1:9/SECRET"),
        WebhookAlerts(url="http://nowhere.invalid/SECRET"),
        MailAlerts(uri="mailto:a@x.org?smtp=user:SECRET@127.0.0.1:9"),
    ],
)
def test_nobody_at_the_other_end_is_a_warning(alerts: Alerts, caplog: pytest.LogCaptureFixture) -> None:
    alerts.send(ALERT)
    assert "nobody was told" in caplog.text
    assert "SECRET" not in caplog.text


def test_mail_arrives_whole() -> None:
    with postman() as (host, seen):
        MailAlerts(uri=f"mailto:you@example.org?smtp={host}&from=shop@example.org").send(
            Alert("fridge", "Drift\nin  brightness", "Ä median fell.\n.\nLast line.", "error", "https://report")
        )
    ((sender, to, text),) = seen.got
    assert sender.startswith("<shop@example.org>")
    assert to == ["<you@example.org>"]
    message = message_from_bytes(text.encode(), policy=default)
    assert message["Subject"] == "[error] fridge: Drift in brightness"
    body = message.get_content().replace("\n..\n", "\n.\n")  # RFC 5321, 4.5.2: dots are doubled on the way
    assert body.splitlines() == ["Ä median fell.", ".", "Last line.", "", "https://report"]


def test_a_refused_mail_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with postman(refuses=True) as (host, seen):
        MailAlerts(uri=f"mailto:you@example.org?smtp={host}").send(ALERT)
    assert not seen.got
    assert "no such person" in caplog.text


def test_a_password_never_travels_in_the_clear(caplog: pytest.LogCaptureFixture) -> None:
    with postman("AUTH PLAIN LOGIN") as (host, seen):
        MailAlerts(uri=f"mailto:you@example.org?smtp=me:pass%40word@{host}").send(ALERT)
    assert not seen.got
    assert "AUTH" not in seen.said
    assert "offers no TLS" in caplog.text
    assert "pass" not in caplog.text.replace("password is sent", "")


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    with postman("STARTTLS") as (host, seen):
        MailAlerts(uri=f"mailto:you@example.org?smtp={host}").send(ALERT)
    assert not seen.got
    assert "nobody was told" in caplog.text


def test_without_a_setting_the_log_is_told(caplog: pytest.LogCaptureFixture) -> None:
    LogAlerts().send(ALERT)
    assert "drift in brightness" in caplog.text
    assert "report.html" in caplog.text


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("mailto:a@x.org", MailTarget("a@x.org", "a@x.org", "localhost", 25)),
        ("mailto:a@x.org?smtp=mail:587", MailTarget("a@x.org", "a@x.org", "mail", 587)),
        ("mailto:a@x.org?smtp=u:p%3A@mail&from=b@x.org", MailTarget("a@x.org", "b@x.org", "mail", 25, "u", "p:")),
    ],
)
def test_mail_addresses_are_read(uri: str, target: MailTarget) -> None:
    assert MailTarget.of(uri) == target


@pytest.mark.parametrize(
    ("setting", "kind"),
    [("", LogAlerts), ("https://hooks.example.org/x", WebhookAlerts), ("mailto:a@x.org", MailAlerts)],
)
def test_the_setting_picks_the_way(setting: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTION_ALERTS", setting)
    made = profiles.local("tiny", host="127.0.0.1", port=0)["alerts"]
    assert isinstance(made, kind)
    assert setting == "" or setting not in str(made), "the setting is a secret"


@pytest.mark.parametrize(
    "setting",
    ["SECRET", "slack:SECRET", "https://", "mailto:SECRET", "mailto:a@x?port=SECRET", "mailto:a@x?smtp=h:SECRET"],
)
def test_a_setting_that_cannot_be_used_is_told_at_once(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTION_ALERTS", setting)
    with pytest.raises(profiles.SettingsError, match="DETECTION_ALERTS") as caught:
        profiles.local("tiny", host="127.0.0.1", port=0)
    assert "mailto:you@example.org" in str(caught.value)
    assert "SECRET" not in str(caught.value).replace("unknown", "")


def test_every_way_is_an_alerts() -> None:
    assert all(isinstance(chosen(one, one), Alerts) for one in ("", "https://x.org", "mailto:a@x.org"))
