"""Lines of the log, and what must never be in them."""

from __future__ import annotations

import json
import logging

import pytest

from glassnet.agent.structured_logs import Lines, part_of, without_secrets


@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer abcdef0123456789",
        "header 'Basic dXNlcjpwYXNz' refused",
        "got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl from the file",
        "token=s3cr3tvalue&x=1",
        'users[0].user: {"token": "s3cr3tvalue"}',
        "password: hunter2hunter2",
        "proxy http://me:hunter2@proxy.example.com:3128 refused",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMHcCAQEE",
    ],
)
def test_secrets_do_not_get_into_the_log(secret: str) -> None:
    shown = without_secrets(secret)
    assert "hidden" in shown
    for word in ("abcdef", "dXNlcjpwYXNz", "eyJ", "c2ln", "s3cr3t", "hunter2", "MHcC"):
        assert word not in shown


def test_what_is_no_secret_stays() -> None:
    text = "watch of secrets: GET https://10.0.0.1:6443/api/v1/nodes?watch=true: connection refused; a token file /var/run/token is empty"
    assert without_secrets(text) == text


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("glassnet.agent.proxy.service", logging.WARNING, "f", 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


def test_a_line_of_json_has_time_level_part_object_and_message() -> None:
    line = json.loads(Lines("json").format(record("port %d\nis taken", 80, object="Service/demo/web")))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "part": "proxy", "object": "Service/demo/web", "message": "port 80\nis taken"}
    assert "object" not in json.loads(Lines("json").format(record("x")))


def test_a_line_of_text() -> None:
    when, rest = Lines("text").format(record("gone", object="Node/a")).split(" ", 1)
    assert when.endswith("Z")
    assert rest == "warning proxy [Node/a] gone"


def test_every_part_has_a_name() -> None:
    modules = (
        "agent.routes.loop",
        "agent.routes.link",
        "agent.cni.server",
        "agent.proxy.loop",
        "client.watches",
        "agent.node.agent",
        "agent.events",
    )
    assert [part_of(f"glassnet.{one}") for one in modules] == ["routes", "routes", "cni", "proxy", "api", "agent", "api"]  # fmt: skip
