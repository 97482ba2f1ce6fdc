"""Execution of Nipype graphs: resources, plugins and the run record.

The plugins run any Nipype workflow::

    workflow.run(plugin=MultiProcPlugin(plugin_args={"n_procs": 2, "memory_gb": 4}))
"""

from neuroferry.engine.dask.plugin import DaskPlugin
from neuroferry.engine.linear import LinearPlugin
from neuroferry.engine.multiproc import MultiProcPlugin
from neuroferry.engine.record import RunRecord, RunSummary, StepSummary
from neuroferry.engine.slurm.plugin import SLURMGraphPlugin

__all__ = [
    "DaskPlugin",
    "LinearPlugin",
    "MultiProcPlugin",
    "RunRecord",
    "RunSummary",
    "SLURMGraphPlugin",
    "StepSummary",
]
