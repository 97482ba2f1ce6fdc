"""Echoes of a BOLD run: what must be the same of all, and what must differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neuroferry.bids.headers import ImageFacts, grid_difference
from neuroferry.bids.metadata import shown
from neuroferry.bids.model import Finding, Image
from neuroferry.bids.timing import settle_echo_time

#: Longest echo time, s, of an EPI.
_LONGEST_TE = 0.5
#: Fields of a sidecar in which the echoes of a run cannot differ.
_SHARED = (
    *("RepetitionTime", "SliceTiming", "SliceEncodingDirection"),
    *("PhaseEncodingDirection", "TotalReadoutTime", "EffectiveEchoSpacing"),
)


def echo_findings(echoes: Sequence[Image], facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Check that the echoes of a run can be combined.

    Parameters
    ----------
    echoes : sequence of Image
        The images of one run, the shortest echo first.
    facts : sequence of ImageFacts
        Their headers.

    Yields
    ------
    Finding
        Nothing for a run of one echo.
    """
    yield from _grid_findings(echoes, facts)
    yield from _time_findings(echoes)
    yield from _unlike_echoes(echoes)


def _grid_findings(echoes: Sequence[Image], facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Check that the echoes lie on one grid: they are combined voxel by voxel."""
    for echo, fact in zip(echoes[1:], facts[1:], strict=True):
        apart = fact.shape == facts[0].shape and grid_difference(fact, facts[0])
        if apart:
            yield Finding(
                f"{echo.path.name} is on another grid than {echoes[0].path.name} ({apart}), but"
                " echoes are combined voxel by voxel; convert the run again",
                fatal=True,
            )


def _unlike_echoes(echoes: Sequence[Image]) -> Iterator[Finding]:
    """Report what the echoes of a run must share, and the sidecar of one denies."""
    for echo in echoes[1:]:
        for key in _SHARED:
            first, other = echoes[0].metadata.get(key), echo.metadata.get(key)
            if first is not None and other is not None and first != other:
                yield Finding(
                    f"the sidecars of {echoes[0].path.name} and {echo.path.name} differ in {key}"
                    f" ({shown(first)} and {shown(other)}), which echoes share; that of the former"
                    " is used. Correct the one that is wrong",
                    fatal=False,
                )


def _time_findings(echoes: Sequence[Image]) -> Iterator[Finding]:
    if len(echoes) < 2:
        return
    times = [settle_echo_time(echo.metadata) for echo in echoes]
    impossible = [e for e, t in zip(echoes, times, strict=True) if t and t > _LONGEST_TE]
    if impossible:
        said = impossible[0].metadata["EchoTime"]
        yield Finding(
            f"the sidecar of {impossible[0].path.name} has EchoTime = {said:g}, which is no echo"
            " time in seconds or milliseconds; write it in seconds",
            fatal=True,
        )
        return
    without = [echo.path.name for echo, time in zip(echoes, times, strict=True) if time is None]
    if without:
        yield Finding(
            f"the sidecar of {' and '.join(without)} has no EchoTime, which is needed to combine"
            " the echoes; add it, or choose one echo with --echo-idx",
            fatal=True,
        )
    elif len(set(times)) < len(times):
        yield Finding(
            f"the echoes of the run have the same EchoTime ({times[0]:g} s); correct the sidecars,"
            " or choose one echo with --echo-idx",
            fatal=True,
        )


def missing_echoes(echoes: Sequence[Image], most: int) -> Iterator[str]:
    """Report missing echoes, by their numbers or by comparison with the other runs.

    Parameters
    ----------
    echoes : sequence of Image
        The images of one run.
    most : int
        Number of echoes of the run that has most.

    Yields
    ------
    str
        What to warn of, as a clause.
    """
    there = sorted(int(e.entities.get("echo", "0")) for e in echoes if _has_number(e))
    if not there or (len(there) == 1 and most == 1):
        return
    missing = [n for n in range(1, max(*there, most) + 1) if n not in there]
    if not missing:
        return
    names = ", ".join(f"echo-{n}" for n in missing)
    have = ", ".join(f"echo-{n}" for n in there)
    then = (
        "the available echoes are combined"
        if len(there) > 1
        else "it is processed as a run of one echo"
    )
    yield f"{names} of the run is missing (available: {have}); {then}"


def _has_number(run: Image) -> bool:
    return run.entities.get("echo", "").isdigit()
