"""Alerts by what every machine can do: its log, a webhook, a mail."""

import json
import smtplib
import ssl
import urllib.request
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import dagster as dg

from resources.alerts.base import TIMEOUT_S, Alert, Alerts

FORMS = "https://... (a webhook that takes Slack's JSON) or mailto:you@example.org?smtp=host:port"


class LogAlerts(Alerts):
    """Alerts in the run's log, where nobody has said where else."""

    def deliver(self, alert: Alert) -> None:
        """Logs the alert."""
        link = f" ({alert.link})" if alert.link else ""
        dg.get_dagster_logger().warning(f"{alert.headline}\n{alert.text}{link}")


class WebhookAlerts(Alerts):
    """Alerts to a webhook, as `{"text": ...}`: what Slack, Mattermost, Rocket.Chat and Teams' bridges take.

    Attributes:
        url: The webhook; whoever knows it can write there, so it is a secret.
    """

    url: str

    def deliver(self, alert: Alert) -> None:
        """Posts the alert.

        Raises:
            urllib.error.URLError: The hook cannot be reached, or its answer is no 2xx.
        """
        lines = [f"*{alert.headline}*", alert.text, alert.link]
        # Slack's markup knows three special characters.
        text = "\n".join(line for line in lines if line)
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        body = json.dumps({"text": text}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            pass

    def told(self, error: Exception) -> str:
        """The failure with the hook's host, and no more of its address."""
        host = urlsplit(self.url).hostname or "the webhook"
        return f"{host}: {type(error).__name__}: {error}".replace(self.url, host)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirected POST would become a GET that tells nobody anything.
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class MailTarget:
    """Who gets mail, from whom, and through which server; empty user: no login."""

    to: str
    sender: str
    host: str
    port: int
    user: str = ""
    password: str = ""

    @classmethod
    def of(cls, uri: str) -> "MailTarget":
        """Reads `mailto:to@x?smtp=[user:password@]host[:port]&from=sender@y`.

        Raises:
            ValueError: If it is no such address; the message does not repeat it.
        """
        parts = urlsplit(uri)
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        to = unquote(parts.path)
        unknown = sorted(set(asked) - {"smtp", "from"})
        if parts.scheme != "mailto" or "@" not in to or any(char.isspace() for char in to) or unknown:
            raise ValueError(f"not mailto:you@example.org?smtp=host:port{f'; unknown: {unknown}' if unknown else ''}")
        server = urlsplit(f"//{asked.get('smtp', 'localhost')}")
        try:
            port = server.port or 25
        except ValueError:
            raise ValueError("smtp= has no number behind its last colon; write smtp=host:port") from None
        if not server.hostname:
            raise ValueError("smtp= names no server; write smtp=host:port")
        user, password = unquote(server.username or ""), unquote(server.password or "")
        return cls(to, asked.get("from", to), server.hostname, port, user, password)


class MailAlerts(Alerts):
    """Alerts by mail.

    Attributes:
        uri: `mailto:to@x?smtp=[user:password@]host[:port]&from=sender@y`; by default the recipient writes to itself.
    """

    uri: str

    def deliver(self, alert: Alert) -> None:
        """Sends a mail, over TLS where the server offers it; a password never travels without.

        Raises:
            OSError: The server cannot be reached or refuses; `smtplib.SMTPException` is one.
        """
        target = MailTarget.of(self.uri)
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = alert.headline, target.sender, target.to
        message.set_content(f"{alert.text}\n\n{alert.link}\n" if alert.link else f"{alert.text}\n")
        secure = target.port == 465
        context = ssl.create_default_context()
        server = (
            smtplib.SMTP_SSL(target.host, target.port, timeout=TIMEOUT_S, context=context)
            if secure
            else smtplib.SMTP(target.host, target.port, timeout=TIMEOUT_S)
        )
        with server:
            server.ehlo()
            if not secure and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
                secure = True
            if target.user:
                if not secure:
                    raise OSError(f"{target.host} offers no TLS, so no password is sent there")
                server.login(target.user, target.password)
            server.send_message(message)


def chosen(setting: str, value: Any) -> Alerts:
    """The way that a setting asks for.

    Args:
        setting: What DETECTION_ALERTS says; empty for the log.
        value: What the resource is given: the same, or something that stands for it where it must not be shown.

    Raises:
        ValueError: If it is neither a webhook nor a mail address; the message does not repeat it.
    """
    if not setting:
        return LogAlerts()
    try:
        parts = urlsplit(setting)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return WebhookAlerts(url=value)
        if parts.scheme == "mailto":
            MailTarget.of(setting)
            return MailAlerts(uri=value)
    except ValueError as error:
        raise ValueError(f"DETECTION_ALERTS: {error}; set it to {FORMS}, or leave it empty") from None
    raise ValueError(f"DETECTION_ALERTS is neither a webhook nor a mail address; set it to {FORMS}, or leave it empty")
