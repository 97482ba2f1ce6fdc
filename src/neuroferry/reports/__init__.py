"""The pages that people look at, made from the run record and the derivatives alone.

Of nireports, the pages take the bootstrap layout (``configs/report.yml`` is one, and
nireports' own assembler reads it) and the naming of figures. Its assembler itself is not
used: its template loads jQuery and Bootstrap from elsewhere, it points to pictures instead
of holding them, puts text into HTML unescaped, rewrites the pictures that it reads, and
indexes the whole output folder with pybids for each participant.
"""

from neuroferry.reports.group import write_group_report
from neuroferry.reports.subject import write_subject_report

__all__ = ["write_group_report", "write_subject_report"]
