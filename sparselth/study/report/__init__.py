"""The report of a study: plots, an HTML page and Markdown, CSV tables, and what is printed."""

from .console import print_report
from .outputs import write_report

__all__ = ["print_report", "write_report"]
