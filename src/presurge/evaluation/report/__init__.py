"""The reports of a training run: an HTML page with pictures, and a plain text."""

from presurge.evaluation.report.summary import RunSummary
from presurge.evaluation.report.write import report_text, write_report

__all__ = ["RunSummary", "report_text", "write_report"]
