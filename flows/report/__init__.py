"""The report: one HTML page that shows what became of the documents, the models, and where everything came from."""

from flows.report.page import write_page
from flows.report.stage import STAGE, ReportConfig

__all__ = ["STAGE", "ReportConfig", "write_page"]
