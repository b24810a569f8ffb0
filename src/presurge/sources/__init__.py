"""Doors in: everything that data comes from becomes a Trace or a Panel here."""

from presurge.sources.counts import TraceCounts, check_trace
from presurge.sources.recognise import TRACE_FORMATS, TraceFormat, recognise_file
from presurge.sources.table import Table, TableCounts, read_frame, read_guide_csv, read_table
from presurge.sources.trace import Trace, open_trace

__all__ = [
    "TRACE_FORMATS",
    "Table",
    "TableCounts",
    "Trace",
    "TraceCounts",
    "TraceFormat",
    "check_trace",
    "open_trace",
    "read_frame",
    "read_guide_csv",
    "read_table",
    "recognise_file",
]
