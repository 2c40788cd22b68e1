"""Looks a whole cluster's network over for the faults that users run into, and says what mends each."""

from glassnet.tracer.doctor.diagnose import CHECKS, diagnose
from glassnet.tracer.doctor.finding import Finding

__all__ = ["CHECKS", "Finding", "diagnose"]
