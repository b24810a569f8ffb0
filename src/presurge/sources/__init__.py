"""Doors in: everything that data comes from becomes a Trace or a Panel here."""

from presurge.sources.files import RowFile, open_file
from presurge.sources.formats import TRACE_FORMATS, TraceFormat, recognise_file
from presurge.sources.table import Table, TableCounts, read_frame, read_guide_csv, read_table
from presurge.sources.trace import Trace, TraceCounts, check_trace, open_trace, requests_panel

__all__ = [
    "TRACE_FORMATS",
    "RowFile",
    "Table",
    "TableCounts",
    "Trace",
    "TraceCounts",
    "TraceFormat",
    "check_trace",
    "open_file",
    "open_trace",
    "read_frame",
    "read_guide_csv",
    "read_table",
    "recognise_file",
    "requests_panel",
]
