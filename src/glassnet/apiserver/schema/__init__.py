"""The shape of the API and its rules, pure: types, defaulting, validation, patches, server-side apply, tables, Service allocation."""

from glassnet.apiserver.schema.allocate import ServiceAllocator
from glassnet.apiserver.schema.apply import apply, managed_update
from glassnet.apiserver.schema.defaults import default
from glassnet.apiserver.schema.errors import FieldError, bad_request, invalid
from glassnet.apiserver.schema.patch import json_patch, merge_patch
from glassnet.apiserver.schema.prepare import WITH_STATUS, asked, prepare_create, prepare_update
from glassnet.apiserver.schema.strategic import strategic_merge
from glassnet.apiserver.schema.strict import prune, unknown_fields
from glassnet.apiserver.schema.table import table
from glassnet.apiserver.schema.types import Schema, load
from glassnet.apiserver.schema.validate import validate_create, validate_status, validate_update

__all__ = [
    "WITH_STATUS",
    "FieldError",
    "Schema",
    "ServiceAllocator",
    "apply",
    "asked",
    "bad_request",
    "default",
    "invalid",
    "json_patch",
    "load",
    "managed_update",
    "merge_patch",
    "prepare_create",
    "prepare_update",
    "prune",
    "strategic_merge",
    "table",
    "unknown_fields",
    "validate_create",
    "validate_status",
    "validate_update",
]
