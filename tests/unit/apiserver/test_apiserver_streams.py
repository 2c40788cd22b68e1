"""What a stream request means: its container, its log options, the Status at its end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from glassnet.apiserver.streams import choose_container, exit_status, log_options
from glassnet.net.errors import ApiError


def pod(*names: str, init: tuple[str, ...] = (), default: str = "") -> dict[str, Any]:
    annotations = {"kubectl.kubernetes.io/default-container": default} if default else {}
    spec = {"containers": [{"name": one} for one in names], "initContainers": [{"name": one} for one in init]}
    return {"metadata": {"name": "p", "annotations": annotations}, "spec": spec}


def test_container_is_the_named_the_only_or_the_default_one() -> None:
    assert choose_container(pod("a"), "") == "a"
    assert choose_container(pod("a", "b"), "b") == "b"
    assert choose_container(pod("a", init=("i",)), "i") == "i"
    assert choose_container(pod("a", "b", default="b"), "") == "b"


@pytest.mark.parametrize(
    ("of", "wanted", "said"),
    [
        (pod("a", "b"), "", "a container name must be specified for pod p, choose one of: [a b]"),
        (pod("a", "b", default="gone"), "", "a container name must be specified for pod p, choose one of: [a b]"),
        (
            pod("a", "b", init=("i",)),
            "",
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
        ),
        (pod("a"), "x", "container x is not valid for pod p"),
    ],
)
def test_container_errors_are_those_of_the_real_server(of: dict[str, Any], wanted: str, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        choose_container(of, wanted)
    assert (caught.value.status, caught.value.message) == (400, said)


def test_log_options_are_typed() -> None:
    query = {
        "follow": "true",
        "previous": "false",
        "tailLines": "0",
        "limitBytes": "9",
        "sinceTime": "2026-01-02T03:04:05Z",
    }
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert log_options(query, "p") == {"follow": True, "tailLines": 0, "limitBytes": 9, "sinceTime": since}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"tailLines": "-1"}, 422),
        ({"tailLines": "x"}, 400),
        ({"sinceSeconds": "0"}, 422),
        ({"limitBytes": "0"}, 422),
        ({"sinceTime": "yesterday"}, 400),
        ({"sinceTime": "2026-01-02T03:04:05"}, 400),
        ({"sinceTime": "2026-01-02T03:04:05Z", "sinceSeconds": "1"}, 422),
    ],
)
def test_bad_log_options_are_refused(query: dict[str, str], status: int) -> None:
    with pytest.raises(ApiError) as caught:
        log_options(query, "p")
    assert caught.value.status == status


def test_exit_status_carries_the_code() -> None:
    assert exit_status(0)["status"] == "Success"
    failed = exit_status(137)
    assert (failed["status"], failed["reason"]) == ("Failure", "NonZeroExitCode")
    assert failed["details"]["causes"] == [{"reason": "ExitCode", "message": "137"}]
