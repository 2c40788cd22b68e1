"""Lists: which revision a list shows, page by page, and what a watch's options mean. Pure over the store.

Source: Kubernetes API concepts, "Resource versions" (the table of resourceVersionMatch), "Retrieving large results sets in chunks".
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.store import Store
from glassnet.apiserver.watch import WatchOptions
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

NEWEST, EXACT = "NotOlderThan", "Exact"
_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, "
    "or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a client asks of a list. `limit` 0 is all; `revision` None is the newest; `resume` is an earlier page's continue token."""

    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    resume: str = ""
    revision: int | None = None
    match: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a list: the objects' JSON, in order of their keys, and the list's metadata."""

    items: list[bytes]
    metadata: dict[str, Any]


class _Token(msgspec.Struct, frozen=True):
    """What a continue token says: the revision of the first page (0: the newest at any time) and the last key shown."""

    rv: int
    start: tuple[str, str]


class TokenExpired(ApiError):
    """410: the pages' revision is forgotten. The Status carries a token to go on with, at the newest revision."""

    def __init__(self, token: _Token) -> None:
        super().__init__(410, "Expired", _TOO_OLD)
        self._token = _write(_Token(0, token.start))

    def to_status(self) -> dict[str, Any]:
        """The Status, its metadata with the token."""
        return {**super().to_status(), "metadata": {"continue": self._token}}


def page(
    store: Store, kind: Kind, namespace: str, options: ListOptions, matches: Callable[[bytes], bool] | None
) -> Page:
    """A page of a list. Raises ApiError: 400 for a broken token, 410 for a revision that is forgotten, 504 for one yet to come."""
    token = _read(options.resume) if options.resume else None
    revision = _revision(store, options, token)
    after = Key(*token.start) if token else None
    try:
        found = store.all_at(kind, namespace, revision)
    except ApiError as error:
        if error.status == 410 and token:
            raise TokenExpired(token) from None
        raise
    chosen = [(key, raw) for key, raw in found if (after is None or key > after) and (matches is None or matches(raw))]
    metadata: dict[str, Any] = {"resourceVersion": str(revision)}
    if options.limit and len(chosen) > options.limit:
        if matches is None:  # with selectors the real server does not count on
            metadata["remainingItemCount"] = len(chosen) - options.limit
        chosen = chosen[: options.limit]
        metadata["continue"] = _write(_Token(revision, chosen[-1][0]))
    return Page([raw for _, raw in chosen], metadata)


def list_options(query: Mapping[str, str]) -> ListOptions:
    """The options of a list request. Raises ApiError 400, and 422 for combinations that mean nothing."""
    options = ListOptions(
        query.get("labelSelector", ""),
        query.get("fieldSelector", ""),
        number(query, "limit") or 0,
        query.get("continue", ""),
        number(query, "resourceVersion"),
        query.get("resourceVersionMatch", ""),
    )
    if "sendInitialEvents" in query:
        raise _forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if options.match:
        if options.resume:
            raise _forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
        if options.revision is None:
            raise _forbidden(
                "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"
            )
        if options.match not in (NEWEST, EXACT):
            raise _options_error(
                f'resourceVersionMatch: Unsupported value: "{options.match}": supported values: "Exact", "NotOlderThan", ""'
            )
        if options.match == EXACT and options.revision == 0:
            raise _forbidden(
                "resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            )
    if options.resume and options.revision:
        raise bad_request("specifying resource version is not allowed when using continue")
    return options


def watch_options(query: Mapping[str, str], namespace: str, store: Store) -> WatchOptions:
    """The options of a watch request. Raises ApiError 400, 422 for combinations that mean nothing, 504 for a list yet to come."""
    match, initial = query.get("resourceVersionMatch", ""), flag(query, "sendInitialEvents")
    if initial is None and match:
        raise _forbidden(
            "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )
    if initial is not None and match != NEWEST:
        raise _forbidden(
            "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        )
    revision = number(query, "resourceVersion")
    if initial:
        reached(store, revision)
    return WatchOptions(
        namespace=namespace,
        name=_name_only(query.get("fieldSelector", "")),
        revision=revision,
        bookmarks=bool(flag(query, "allowWatchBookmarks")),
        initial_events=initial,
        timeout=float(number(query, "timeoutSeconds") or 1800),
    )


def reached(store: Store, revision: int | None) -> None:
    """Raises ApiError 504 when a client asks for a state that is yet to come."""
    if revision and revision > store.revision:
        raise _too_new(revision, store)


def number(query: Mapping[str, str], name: str) -> int | None:
    """A number of a query, None when it is absent or empty. Raises ApiError 400."""
    text = query.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise bad_request(f'{name}: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """A switch of a query, None when it is absent; all but false and 0 is on, as the real server reads it."""
    text = query.get(name)
    return None if text is None else text.lower() not in ("false", "0")


def _name_only(selector: str) -> str:
    """The name that a field selector asks for, so that other objects need not be looked at."""
    terms = selector.split(",")
    found = [term.removeprefix("metadata.name=").lstrip("=") for term in terms if term.startswith("metadata.name=")]
    return found[0] if found else ""


def _revision(store: Store, options: ListOptions, token: _Token | None) -> int:
    if token:
        return token.rv or store.revision
    wanted = options.revision or 0
    reached(store, wanted)
    return wanted if options.match == EXACT else store.revision


def _too_new(wanted: int, store: Store) -> ApiError:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(
        504,
        "Timeout",
        f"Too large resource version: {wanted}, current: {store.revision}",
        {"causes": causes, "retryAfterSeconds": 1},
    )


def _write(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _read(text: str) -> _Token:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except (ValueError, msgspec.MsgspecError):
        raise bad_request("continue key is not valid") from None


def _forbidden(field: str, why: str) -> ApiError:
    return _options_error(f"{field}: Forbidden: {why}")


def _options_error(text: str) -> ApiError:
    return ApiError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {text}')
