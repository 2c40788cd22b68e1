"""Tables as kubectl prints them: the columns and cells of the real server's printers (pkg/printers/internalversion in kubernetes)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from glassnet.apiserver.schema import cells
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]


def table(kind: Kind, objects: list[Obj], now: datetime, include_object: str = "Metadata") -> Obj:
    """A meta.k8s.io/v1 Table. `include_object`: "None", "Metadata" or "Object", as in the query parameter."""
    columns, row = cells.PRINTERS.get(kind, (cells.PLAIN, cells.plain))
    rows = []
    for obj in objects:
        entry: Obj = {"cells": row(obj, now)}
        if include_object == "Object":
            entry["object"] = obj
        elif include_object != "None":
            entry["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(entry)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [column.definition() for column in columns],
        "rows": rows,
    }
