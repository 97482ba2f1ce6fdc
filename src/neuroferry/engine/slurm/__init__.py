"""The plugin SLURMGraph, which turns a graph into job arrays that re-enter the image.

Words
-----
unit
    A part of the graph without any edge to the rest, usually one participant
    (:mod:`.units`).
group
    Units whose graphs have the same structure, so that they share job arrays
    (:mod:`.manifest`).
member
    A unit in its group: task number n of each of the group's arrays is its n-th member.
pack
    Steps of a unit that share a job (:mod:`.pack`); for a whole group a pack is one job array,
    with a task for each member.
payload
    Data from which a job restores its unit's graph.
manifest
    Everything that is submitted, as plain values in ``slurm/manifest.json``: groups, members,
    packs.
round
    One submission. Round 0 is the plan; each later one holds the steps that have to run again or
    did not fit into the queue, and has its own manifest.
submit script
    ``submit.sh``, which calls ``sbatch`` on the host; the image holds no SLURM.
job
    One task of an array: it re-enters the image and runs a pack of one member (:mod:`.job`).
ends
    How the jobs of a round ended: the record combined with SLURM's information (:mod:`.ends`).
steward
    The last job of a round. It settles the round: it plans and submits the next with the jobs
    that ran out of memory or time, or closes the record (:mod:`.steward`).
watch
    A small job outside the image that resubmits itself every ``watch_minutes`` of a round:
    it releases jobs that SLURM has put on hold, cancels those that cannot start, and resubmits a
    lost steward.
"""
