"""What the annotations of an Ingress ask for, and the directives that do it: one module for each family."""

from glassnet.ingress.options.objects import Objects
from glassnet.ingress.options.place import Backend, Place, Spelled
from glassnet.ingress.options.reading import Complaint
from glassnet.ingress.options.table import NONE, Options, defaults, read, resolve, spell

__all__ = [
    "NONE",
    "Backend",
    "Complaint",
    "Objects",
    "Options",
    "Place",
    "Spelled",
    "defaults",
    "read",
    "resolve",
    "spell",
]
