"""`notify.yaml` in the data root: who is told of what.

    channels:
      team:
        webhook: https://example.org/hooks/splats
        secret: TEAM_HOOK_SECRET           # the environment variable that holds the signing key
        events: [failure, gate_failed]     # or success; default: these two
      me:
        email: [me@example.org]
        datasets: [garden, lerobot--*]     # default: all of them
    smtp: {host: mail.example.org, port: 587, security: starttls, username: splats,
           password: SMTP_PASSWORD, sender: splats@example.org}

Secrets stay in the environment; the file only names the variables.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from splat_assets.datasets.spec import explain
from splat_assets.errors import UserError

FILE = "notify.yaml"
EventKind = Literal["success", "failure", "gate_failed"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(_Settings):
    """One receiver: a webhook or some mail addresses."""

    webhook: str | None = Field(None, pattern=r"^https?://", description="URL that gets a POST")
    secret: str | None = Field(None, description="environment variable with the signing key")
    email: tuple[str, ...] = ()
    events: tuple[EventKind, ...] = Field(("failure", "gate_failed"), min_length=1)
    datasets: tuple[str, ...] = Field(("*",), description="names or patterns with * and ?")

    @model_validator(mode="after")
    def _has_one_receiver(self) -> Self:
        if (self.webhook is None) == (not self.email):
            raise ValueError("a channel needs either `webhook` or `email`")
        return self

    def wants(self, kind: EventKind, dataset: str) -> bool:
        return kind in self.events and any(fnmatchcase(dataset, p) for p in self.datasets)


class Smtp(_Settings):
    """The mail server."""

    host: str
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: str | None = Field(None, description="environment variable with the password")
    sender: str = Field(description="address the mail comes from")


class NotifySettings(_Settings):
    """All of `notify.yaml`."""

    channels: dict[str, Channel] = Field(default_factory=dict)
    smtp: Smtp | None = None

    @model_validator(mode="after")
    def _mail_has_a_server(self) -> Self:
        if self.smtp is None and any(channel.email for channel in self.channels.values()):
            raise ValueError("channels with `email` need the mail server under `smtp`")
        return self


def load_notify_settings(folder: Path) -> NotifySettings:
    """The settings of a data root; empty where there is no file. Raises `UserError`."""
    path = folder / FILE
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return NotifySettings(**(values or {}))
    except FileNotFoundError:
        return NotifySettings()
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from None
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def secret_from_environment(variable: str | None) -> str | None:
    """The value of the named variable, or None where none is named.

    Raises `UserError` when it is named but not set: an unsigned message would be worse than none.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"{FILE} names the environment variable {variable}, which is not set.")
    return value
