"""The API's types and everything that follows from them, as pure functions on JSON-like dicts."""

from glassnet.apiserver.schema.allocate import ServiceAllocator
from glassnet.apiserver.schema.apply import apply, managed_update
from glassnet.apiserver.schema.defaults import default
from glassnet.apiserver.schema.errors import FieldError, invalid
from glassnet.apiserver.schema.patch import json_patch, merge_patch
from glassnet.apiserver.schema.strategic import strategic_merge
from glassnet.apiserver.schema.strategy import prepare_create, prepare_update
from glassnet.apiserver.schema.strict import prune, unknown_fields
from glassnet.apiserver.schema.table import table
from glassnet.apiserver.schema.types import Schema, load
from glassnet.apiserver.schema.validate import validate_create, validate_status, validate_update

__all__ = [
    "FieldError",
    "Schema",
    "ServiceAllocator",
    "apply",
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
