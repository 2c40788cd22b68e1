"""The API's verbs over the store: what a request does to an object, from admission to the committed revision.

Everything is synchronous and takes the clock and randomness as arguments; `http.py` and `local.py` are the two ways in.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from random import Random
from typing import Any

import msgspec

from glassnet.apiserver import admission, books, lifecycle, listing, nulls, schema
from glassnet.apiserver.expiry import Ages
from glassnet.apiserver.fields import field_reader
from glassnet.apiserver.request import DeleteOptions, Request
from glassnet.apiserver.schema import ServiceAllocator
from glassnet.apiserver.store import Store
from glassnet.kube import kinds, selectors, types
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError, ParseError

Obj = dict[str, Any]
_JOBS_ORPHAN = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set "
    "propagationPolicy=Orphan to suppress this warning"
)
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
APPLY, JSON_PATCH, MERGE_PATCH, STRATEGIC = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_IMMORTAL = ("default", "kube-system", "kube-public")  # NamespaceLifecycle of the real server
_CREATED_BY_UPDATE = (kinds.ENDPOINTS, kinds.EVENT, kinds.LEASE)  # AllowCreateOnUpdate of their strategies


def encode(obj: Obj) -> bytes:
    """An object as JSON."""
    return msgspec.json.encode(obj)


def decode(raw: bytes) -> Obj:
    """An object from JSON."""
    obj: Obj = msgspec.json.decode(raw)
    return obj


class ApiServer:
    """The embedded API server's core."""

    def __init__(
        self, store: Store, *, now: Callable[[], datetime], random: Random, service_cidr: str = "10.32.0.0/24"
    ) -> None:
        self.store, self._now, self._random = store, now, random
        self.schema = schema.load()
        self.services = ServiceAllocator(service_cidr, random=random)
        for _, raw in store.all(kinds.SERVICE):
            self.services.reserve(decode(raw))
        self._ranges_changed()
        for name in SYSTEM_NAMESPACES:
            if store.get(kinds.NAMESPACE, Key("", name)) is None:
                self.create(kinds.NAMESPACE, "", {"metadata": {"name": name}})
        self._ages = Ages(now(), store.revision)

    def now(self) -> datetime:
        """The server's clock."""
        return self._now()

    # -- reading

    def _ranges_changed(self) -> None:
        found = (decode(raw) for _, raw in self.store.all(kinds.SERVICE_CIDR))
        self.services.ranges(cidr for obj in found for cidr in (obj.get("spec") or {}).get("cidrs") or ())

    def get(self, kind: Kind, namespace: str, name: str) -> bytes:
        """One object's JSON. Raises ApiError 404."""
        raw = self.store.get(kind, Key(namespace, name))
        if raw is None:
            raise not_found(kind, name)
        return raw

    def list(self, kind: Kind, namespace: str = "", options: listing.ListOptions | None = None) -> listing.Page:
        """A page of a list; `namespace` "" is all of them. Raises ApiError (400, 410, 504)."""
        options = options or listing.ListOptions()
        matches = self.select(kind, options.label_selector, options.field_selector)
        return listing.page(self.store, kind, namespace, options, matches)

    def select(self, kind: Kind, label_selector: str, field_selector: str) -> Callable[[bytes], bool] | None:
        """A test for objects that both selectors match; None when both are empty. Raises ApiError 400."""
        if not label_selector and not field_selector:
            return None
        try:
            by_label, by_field = selectors.parse(label_selector), selectors.parse_fields(field_selector)
        except ParseError as error:
            raise schema.bad_request(f"unable to parse requirement: {error}") from None
        read = field_reader(kind, [path for path, _, _ in by_field])

        def matches(raw: bytes) -> bool:
            obj = decode(raw)
            return selectors.matches(by_label, obj["metadata"].get("labels") or {}) and selectors.fields_match(
                by_field, lambda path: read(obj, path)
            )

        return matches

    # -- writing

    def create(self, kind: Kind, namespace: str, body: Mapping[str, Any], request: Request | None = None) -> Obj:
        """Create an object. Raises ApiError (400, 403, 404, 409, 422)."""
        request = request or Request()
        obj = self._accept(kind, namespace, body, request)
        metadata = obj["metadata"]
        if kind.namespaced:
            self._check_namespace(kind, namespace, metadata)
        schema.prepare_create(kind, obj)
        metadata["uid"] = self._uid()
        metadata["creationTimestamp"] = lifecycle.stamp(self._now())
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._free_name(kind, namespace, metadata["generateName"])
        schema.default(self.schema, kind, obj)
        admission.mutate(kind, obj)
        self._check(kind, obj, schema.validate_create(kind, obj))
        if self.store.get(kind, Key(namespace, metadata["name"])) is not None:
            raise exists(kind, metadata["name"])
        if kind is kinds.SERVICE:
            self.services.assign(obj, None)
        if request.manager and "managedFields" not in metadata:
            schema.managed_update(self.schema, kind, None, obj, request.manager, "Update", lifecycle.stamp(self._now()))
        return self.write(kind, Key(namespace, metadata["name"]), obj, None, request)

    def _free_name(self, kind: Kind, namespace: str, prefix: str) -> str:
        """A name of `prefix` and five letters that nobody has; after eight tries the last one, taken as it is."""
        name = ""
        for _ in range(8):
            name = prefix[:58] + "".join(self._random.choice(_ALPHABET) for _ in range(5))
            if self.store.get(kind, Key(namespace, name)) is None:
                break
        return name

    def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Mapping[str, Any],
        request: Request | None = None,
        subresource: str = "",
    ) -> Obj:
        """Replace an object (or its status). Raises ApiError (404, 409, 422)."""
        request = request or Request()
        new = self._accept(kind, namespace, body, request)
        if (new["metadata"].get("name") or name) != name:
            raise schema.bad_request(
                f"the name of the object ({new['metadata']['name']}) does not match the name on the URL ({name})"
            )
        new["metadata"]["name"] = name
        if kind in _CREATED_BY_UPDATE and not subresource and self.store.get(kind, Key(namespace, name)) is None:
            return self.create(kind, namespace, new, request)
        old = decode(self.get(kind, namespace, name))
        return self._replace(kind, Key(namespace, name), new, old, request, subresource, "Update")

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Any,
        content_type: str,
        request: Request | None = None,
        subresource: str = "",
    ) -> Obj:
        """Patch an object; `content_type` is one of the four patch types. An apply patch creates what is not there."""
        request = request or Request()
        raw = self.store.get(kind, Key(namespace, name))
        if content_type == APPLY:
            return self._apply(kind, namespace, name, patch, None if raw is None else decode(raw), request, subresource)
        if raw is None:
            raise not_found(kind, name)
        old = decode(raw)
        if content_type == JSON_PATCH:
            new = schema.json_patch(old, patch)
        elif content_type == MERGE_PATCH:
            new = schema.merge_patch(old, patch)
        elif content_type == STRATEGIC:
            new = schema.strategic_merge(self.schema, kind, old, patch)
        else:
            raise ApiError(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format - accepted media types include: {JSON_PATCH}, {MERGE_PATCH}, {APPLY}, {STRATEGIC}",
            )
        if not isinstance(new, dict):
            raise schema.bad_request("the patch does not leave an object")
        return self._replace(
            kind, Key(namespace, name), self._accept(kind, namespace, new, request), old, request, subresource, "Update"
        )

    def _apply(
        self, kind: Kind, namespace: str, name: str, patch: Any, live: Obj | None, request: Request, subresource: str
    ) -> Obj:
        if not request.manager:
            raise ApiError(
                422,
                "Invalid",
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
            )
        if live is None and subresource:
            raise not_found(kind, name)
        config = self._accept(kind, namespace, patch, request)
        if (config["metadata"].get("name") or name) != name:
            raise schema.bad_request("metadata.name does not match the name on the URL")
        if config["metadata"].get("managedFields"):
            raise schema.bad_request("metadata.managedFields must be nil")
        now = lifecycle.stamp(self._now())
        merged = schema.apply(self.schema, kind, live, config, request.manager, request.force, now, subresource)
        merged["metadata"]["name"] = name
        if live is not None:
            return self._replace(kind, Key(namespace, name), merged, live, request, subresource, "Apply")
        keep = Request(request.user, "", request.dry_run, request.validation, warnings=request.warnings)
        return self.create(kind, namespace, merged, keep)

    def _replace(
        self, kind: Kind, key: Key, new: Obj, old: Obj, request: Request, subresource: str, operation: str
    ) -> Obj:
        before, metadata = old["metadata"], new["metadata"]
        check_unchanged(kind, key.name, metadata, before)
        if kind.namespaced:
            metadata["namespace"] = key.namespace
        schema.prepare_update(kind, new, old, subresource)
        if subresource != "status":
            schema.default(self.schema, kind, new)
            admission.mutate(kind, new)
            if kind is kinds.SERVICE and new["spec"].get("type") != "ExternalName" and not new["spec"].get("clusterIP"):
                new["spec"]["clusterIP"] = old["spec"].get("clusterIP", "")
            self._check(kind, new, schema.validate_update(kind, new, old))
            if kind is kinds.SERVICE:
                self.services.assign(new, old)
        else:
            self._check(kind, new, schema.validate_status(kind, new, old))
        if operation == "Update":
            if request.manager:
                schema.managed_update(
                    self.schema, kind, old, new, request.manager, operation, lifecycle.stamp(self._now()), subresource
                )
            elif "managedFields" in before:
                metadata["managedFields"] = before["managedFields"]
        if lifecycle.may_go(kind, new):
            return self.remove(kind, key, new, request)
        return self.write(kind, key, new, old, request)

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        options: DeleteOptions | None = None,
        request: Request | None = None,
    ) -> Obj:
        """Delete an object, or start its deletion; the object as it is now. Raises ApiError (404, 409)."""
        request, options = request or Request(), options or DeleteOptions()
        raw = self.get(kind, namespace, name)
        obj, old = decode(raw), decode(raw)
        _check_preconditions(kind, name, obj["metadata"], options)
        if kind is kinds.NAMESPACE and name in _IMMORTAL:
            raise ApiError(
                403,
                "Forbidden",
                f'namespaces "{name}" is forbidden: this namespace may not be deleted',
                _details(kind, name),
            )
        if kind is kinds.JOB and not options.propagation:
            request.warnings.append(_JOBS_ORPHAN)
        verdict = lifecycle.on_delete(kind, obj, options, self._now())
        if verdict == "remove":
            return self.remove(kind, Key(namespace, name), obj, request)
        return obj if verdict == "keep" else self.write(kind, Key(namespace, name), obj, old, request)

    # -- the last steps of every write

    def write(self, kind: Kind, key: Key, obj: Obj, old: Obj | None, request: Request) -> Obj:
        """Store a checked object; nothing is written for a dry run, or when nothing changed."""
        metadata = obj["metadata"]
        obj["kind"], obj["apiVersion"] = kind.name, kind.api_version
        if old is not None:
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            if obj == old:
                return obj
        _check_readable(kind, obj)
        if request.dry_run:
            if old is None:
                metadata.pop("resourceVersion", None)
            return obj

        def with_revision(revision: int) -> bytes:
            metadata["resourceVersion"] = str(revision)
            return encode(obj)

        if kind is kinds.EVENT:
            self._expire_events()
        self.store.put(kind, key, with_revision)
        if kind is kinds.EVENT:
            self._ages.wrote(self._now(), self.store.revision)
        if kind is kinds.SERVICE:
            if old is not None:
                self.services.release(old)
            self.services.reserve(obj)
        elif kind is kinds.SERVICE_CIDR:
            self._ranges_changed()
        return obj

    def remove(self, kind: Kind, key: Key, obj: Obj, request: Request) -> Obj:
        """Remove an object from the store; a dry run only says what it would be."""
        if request.dry_run:
            return obj

        def with_revision(revision: int) -> bytes:
            obj["metadata"]["resourceVersion"] = str(revision)
            return encode(obj)

        self.store.delete(kind, key, with_revision)
        if kind is kinds.SERVICE:
            self.services.release(obj)
        elif kind is kinds.SERVICE_CIDR:
            self._ranges_changed()
        elif (
            kind is kinds.NAMESPACE
        ):  # whoever empties a namespace leaves its Events, which go on being told until the end
            self._drop_events(key.name)
        return obj

    def _expire_events(self) -> None:
        if bound := self._ages.expired(self._now()):
            self._drop_events("", bound)

    def _drop_events(self, namespace: str, bound: int | None = None) -> None:
        """Remove Events, only those written at `bound` or before when it is given. One that resists goes another time."""
        for key, raw in self.store.all(kinds.EVENT, namespace):
            event = decode(raw)
            if bound is None or int(event["metadata"]["resourceVersion"]) <= bound:
                with contextlib.suppress(ApiError):
                    self.remove(kinds.EVENT, key, event, Request())

    def _accept(self, kind: Kind, namespace: str, body: Mapping[str, Any], request: Request) -> Obj:
        """A private copy of what the client sent, checked for kind, namespace and unknown fields."""
        if not isinstance(body, Mapping):
            raise schema.bad_request("the object provided is unrecognized (must be of type Object)")
        if body.get("kind", kind.name) != kind.name or body.get("apiVersion", kind.api_version) != kind.api_version:
            raise schema.bad_request(
                f"the API version in the data ({body.get('apiVersion')}, Kind={body.get('kind')}) does not match the expected API version "
                f"({kind.api_version}, Kind={kind.name})"
            )
        obj = copy.deepcopy(dict(body))
        if request.validation != "Ignore" or request.manager:
            unknown = [*request.duplicates, *schema.unknown_fields(self.schema, kind, obj)]
            if unknown and request.validation == "Strict":
                raise schema.bad_request(
                    f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: strict decoding error: {", ".join(unknown)}'
                )
            if request.validation == "Warn":
                request.warnings += unknown
            schema.prune(self.schema, kind, obj)
            nulls.fill(self.schema, kind, obj)
        metadata = obj["metadata"] = dict(obj.get("metadata") or {})
        if "managedFields" in metadata and not books.readable(metadata["managedFields"]):
            del metadata["managedFields"]  # what is stored stays then, as on the real server
        if kind.namespaced:
            if metadata.get("namespace", namespace) != namespace:
                raise schema.bad_request(
                    f"the namespace of the provided object does not match the namespace sent on the request ({metadata['namespace']} != {namespace})"
                )
            metadata["namespace"] = namespace
        else:
            metadata.pop("namespace", None)
        return obj

    def _check(self, kind: Kind, obj: Obj, faults: Sequence[schema.FieldError]) -> None:
        if faults:
            raise schema.invalid(kind, obj["metadata"].get("name") or obj["metadata"].get("generateName", ""), faults)

    def _check_namespace(self, kind: Kind, namespace: str, metadata: Obj) -> None:
        raw = self.store.get(kinds.NAMESPACE, Key("", namespace))
        if raw is None:
            raise not_found(kinds.NAMESPACE, namespace)
        if kind is not kinds.EVENT and decode(raw)["metadata"].get("deletionTimestamp"):
            name = metadata.get("name", "")
            raise ApiError(
                403,
                "Forbidden",
                f'{kind.resource} "{name}" is forbidden: unable to create new content in namespace {namespace} because it is being terminated',
                {
                    **_details(kind, name),
                    "causes": [
                        {
                            "reason": "NamespaceTerminating",
                            "message": f"namespace {namespace} is being terminated",
                            "field": "metadata.namespace",
                        }
                    ],
                },
            )

    def _uid(self) -> str:
        """RFC 4122, version 4."""
        digits = f"{self._random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:]}"


def not_found(kind: Kind, name: str) -> ApiError:
    """The 404 answer."""
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def _check_readable(kind: Kind, obj: Obj) -> None:
    """Raises ApiError 400 for an object that nobody who reads the store could make sense of: once stored, it would stop them all."""
    try:
        types.decode(kind, encode(obj))
    except msgspec.ValidationError as error:
        raise schema.bad_request(
            f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {error}'
        ) from None


def exists(kind: Kind, name: str) -> ApiError:
    """The 409 answer to a create of what is there."""
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def check_unchanged(kind: Kind, name: str, sent: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raises ApiError 409 when the metadata a client sent is of another version than the stored one, or of another object."""
    if sent.get("resourceVersion") and sent["resourceVersion"] != stored["resourceVersion"]:
        raise conflict(
            kind, name, "the object has been modified; please apply your changes to the latest version and try again"
        )
    if sent.get("uid") and sent["uid"] != stored["uid"]:
        raise conflict(
            kind,
            name,
            f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta: {stored['uid']}",
        )


def _check_preconditions(kind: Kind, name: str, metadata: Obj, options: DeleteOptions) -> None:
    """Raises ApiError 409 when it is another object, or another version of it, that the client means to delete."""
    uid, version = metadata["uid"], metadata["resourceVersion"]
    if options.uid and options.uid != uid:
        raise conflict(
            kind,
            name,
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({uid}). "
            "The object might have been deleted and then recreated",
        )
    if options.resource_version and options.resource_version != version:
        raise conflict(
            kind,
            name,
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion in record ({version}). "
            "The object might have been modified",
        )


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    """The 409 answer to a write that is based on something outdated."""
    return ApiError(
        409, "Conflict", f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}', _details(kind, name)
    )


def _details(kind: Kind, name: str) -> Obj:
    found = {"name": name, "group": kind.group, "kind": kind.plural}
    return {field: value for field, value in found.items() if value}
