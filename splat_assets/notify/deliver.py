"""Sending one notification: a signed HTTP POST, or an e-mail.

The signature follows Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over
`id.timestamp.body`, so that a receiver can refuse forgeries, replays (by the timestamp) and repeats
(by the id: delivery is at least once).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import smtplib
import ssl
import time
from email.message import EmailMessage

from splat_assets.errors import TransientError, UserError
from splat_assets.notify.message import Notification
from splat_assets.notify.settings import Channel, Smtp, secret_from_environment

TIMEOUT_SEC = 10.0
SECRET_PREFIX = "whsec_"


def deliver(notification: Notification, channel: Channel, smtp: Smtp | None) -> None:
    """Hand a notification to a channel's receiver.

    Raises:
        TransientError: the receiver does not answer or is busy; worth another try.
        UserError: it refuses, or the settings cannot work.
    """
    if channel.webhook is not None:
        _post(notification, channel.webhook, secret_from_environment(channel.secret))
    elif smtp is not None:
        _mail(notification, channel.email, smtp)


def sign(secret: str, id_: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: `v1,` and the base64 HMAC.

    A key that starts with `whsec_` is base64, as Standard Webhooks writes keys; any other is taken
    as it is.
    """
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _post(notification: Notification, url: str, secret: str | None) -> None:
    import httpx

    body, timestamp = notification.to_json().encode(), int(time.time())
    headers = {
        "content-type": "application/json",
        "webhook-id": notification.id,
        "webhook-timestamp": str(timestamp),
    }
    if secret is not None:
        headers["webhook-signature"] = sign(secret, notification.id, timestamp, body)
    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_SEC)
    except httpx.HTTPError as error:
        raise TransientError(f"{url} does not answer ({error}).") from None
    if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
        raise TransientError(f"{url} answers {answer.status_code} for now.")
    if not answer.is_success:
        raise UserError(f"{url} refuses with {answer.status_code}; check the channel's webhook.")


def _mail(notification: Notification, receivers: tuple[str, ...], smtp: Smtp) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"] = notification.subject, smtp.sender
    mail["To"] = ", ".join(receivers)
    mail["Message-ID"] = f"<{notification.id}@splat-assets>"
    mail.set_content(notification.text)
    password = secret_from_environment(smtp.password)
    context = ssl.create_default_context()
    try:
        if smtp.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                smtp.host, smtp.port, timeout=TIMEOUT_SEC, context=context
            )
        else:
            server = smtplib.SMTP(smtp.host, smtp.port, timeout=TIMEOUT_SEC)
        with server:
            if smtp.security == "starttls":
                server.starttls(context=context)
            if smtp.username is not None:
                server.login(smtp.username, password or "")
            server.send_message(mail)
    except smtplib.SMTPResponseException as error:
        told = error.smtp_error or b""
        told = told if isinstance(told, str) else told.decode("utf-8", "replace")
        message = f"The mail server {smtp.host} answers {error.smtp_code} {told}".strip() + "."
        if 400 <= error.smtp_code < 500:
            raise TransientError(message) from None
        raise UserError(message) from None
    except smtplib.SMTPRecipientsRefused as error:
        raise UserError(f"{smtp.host} refuses {', '.join(error.recipients)}.") from None
    except (smtplib.SMTPException, OSError) as error:
        raise TransientError(f"The mail server {smtp.host} does not answer ({error}).") from None
