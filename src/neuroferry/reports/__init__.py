"""The HTML reports, made from the run record and the derivatives alone.

The reports use the bootstrap layout of nireports (``configs/report.yml``, which nireports' own
assembler reads as well) and its names of figures. The assembler itself is not used: its
template loads jQuery and Bootstrap from elsewhere, it links to figures instead of including
them, puts text into HTML unescaped, rewrites the figures that it reads, and indexes the whole
output folder with pybids for each participant.
"""

from neuroferry.reports.group import write_group_report
from neuroferry.reports.subject import write_subject_report

__all__ = ["write_group_report", "write_subject_report"]
