"""Filters that select images of a participant (``--bids-filter-file``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neuroferry.bids.entities import ENTITIES, did_you_mean, strip_label
from neuroferry.bids.model import Image
from neuroferry.errors import ExitCode, InputError, UsageError

#: Images that each query of a filter selects from: datatype and, except for field maps, suffix.
QUERIES: dict[str, dict[str, str]] = {
    "t1w": {"datatype": "anat", "suffix": "T1w"},
    "t2w": {"datatype": "anat", "suffix": "T2w"},
    "flair": {"datatype": "anat", "suffix": "FLAIR"},
    "bold": {"datatype": "func", "suffix": "bold"},
    "sbref": {"datatype": "func", "suffix": "sbref"},
    "dwi": {"datatype": "dwi", "suffix": "dwi"},
    "asl": {"datatype": "perf", "suffix": "asl"},
    "fmap": {"datatype": "fmap"},
}
#: Options that set conditions of a query.
_FLAGS = {("bold", "task"): "--task-id", ("bold", "echo"): "--echo-idx"}
_FILTERABLE = (*ENTITIES, "datatype", "suffix")
_ABSENT = {None, "Query.NONE", "<Query.NONE: 1>"}
_PRESENT = {"*", "Query.ANY", "<Query.ANY: 2>"}


def check_filters(filters: Mapping[str, Any]) -> None:
    """Check that every query and entity of a filter exists.

    Raises
    ------
    UsageError
        If one does not exist; the message names the nearest that does.

    Examples
    --------
    >>> check_filters({"t1w": {"session": "01", "acquisition": None}})
    >>> check_filters({"T1": {}})
    Traceback (most recent call last):
    ...
    neuroferry.errors.UsageError: The BIDS filter has an unknown query 'T1'; did you mean t1w?
    """
    for query, conditions in filters.items():
        if query not in QUERIES:
            raise UsageError(
                f"The BIDS filter has an unknown query {query!r}"
                f"{did_you_mean(query.lower(), QUERIES)}"
            )
        if not isinstance(conditions, Mapping):
            raise UsageError(
                f"The BIDS filter for {query!r} must be an object such as"
                f' {{"session": "01"}}, but is {conditions!r}'
            )
        for entity, value in conditions.items():
            if entity not in _FILTERABLE:
                raise UsageError(
                    f"The BIDS filter for {query!r} has an unknown entity {entity!r}"
                    f"{did_you_mean(entity, _FILTERABLE)}"
                )
            values = value if isinstance(value, list) else [value]
            if not all(item is None or isinstance(item, str | int) for item in values):
                raise UsageError(
                    f"The BIDS filter for {query!r} sets {entity!r} to {value!r}; use a string,"
                    " a number, null (absent), '*' (any value), or a list of these"
                )


def query_runs(query: str, runs: Sequence[Image]) -> list[Image]:
    """Select the images that a query applies to, before its conditions."""
    return [run for run in runs if all(getattr(run, k) == v for k, v in QUERIES[query].items())]


def apply_filters(filters: Mapping[str, Mapping[str, Any]], runs: Sequence[Image]) -> list[Image]:
    """Keep the images that meet the conditions of every query that applies to them."""
    kept = list(runs)
    for query, conditions in filters.items():
        concerned = {run.path for run in query_runs(query, kept)}
        kept = [run for run in kept if run.path not in concerned or _meets(run, conditions)]
    return kept


def check_matches(filters: Mapping[str, Mapping[str, Any]], runs: Sequence[Image]) -> None:
    """Check that each filter, and each value of an option, matches an image of the dataset.

    Raises
    ------
    InputError
        With exit code 18; the message names the values that there are.
    """
    for query, conditions in filters.items():
        concerned = query_runs(query, runs)
        for entity in conditions:
            for value in _unmatched(query, entity, conditions, concerned):
                raise InputError(
                    f"{_FLAGS[query, entity]} {value} (or the BIDS filter for {query!r}) matches"
                    f" no image{_values(entity, concerned)}",
                    exit_code=ExitCode.NOTHING_MATCHED,
                )
        if not apply_filters({query: conditions}, concerned):
            there = f"there are {len(concerned)} images of this kind"
            there += "".join(_values(entity, concerned) for entity in conditions)
            raise InputError(
                f"The BIDS filter for {query!r} ({dict(conditions)}) matches no image: {there}",
                exit_code=ExitCode.NOTHING_MATCHED,
            )


def unmet(
    filters: Mapping[str, Mapping[str, Any]], runs: Sequence[Image], kept: Sequence[Image]
) -> Iterator[str]:
    """Report what the options of a filter do not find in one participant.

    Parameters
    ----------
    filters : mapping
        Conditions of each query.
    runs, kept : sequence of Image
        Images of the participant, before and after the filters.
    """
    for query, conditions in filters.items():
        concerned = query_runs(query, runs)
        if not query_runs(query, kept):
            continue  # reported as a whole
        for value in _unmatched(query, "task", conditions, concerned):
            yield f"there is no run of the task {value} (--task-id)"
        wanted = conditions.get("echo")
        if wanted is not None:
            there = {_without_echo(run) for run in kept}
            lost = [run for run in concerned if _without_echo(run) not in there]
            for run in {
                _without_echo(run): run for run in lost if _meets_but_echo(run, conditions)
            }.values():
                yield f"{run.path.name}: no echo of its run is chosen (--echo-idx); it is left out"


def _without_echo(run: Image) -> frozenset[tuple[str, str]]:
    return frozenset((k, v) for k, v in run.entities.items() if k != "echo")


def _meets_but_echo(run: Image, conditions: Mapping[str, Any]) -> bool:
    return _meets(run, {entity: v for entity, v in conditions.items() if entity != "echo"})


def _unmatched(
    query: str, entity: str, conditions: Mapping[str, Any], runs: Sequence[Image]
) -> list[object]:
    """List the values of an option that no image has."""
    wanted = conditions.get(entity)
    if (query, entity) not in _FLAGS or wanted is None:
        return []
    choices = wanted if isinstance(wanted, list) else [wanted]
    asked = [choice for choice in choices if choice not in _ABSENT]
    return [c for c in asked if not any(_matches(entity, r.entities.get(entity), c) for r in runs)]


def _values(entity: str, runs: Sequence[Image]) -> str:
    values = sorted({run.entities[entity] for run in runs if entity in run.entities})
    return f"; {entity} is {' or '.join(values[:5])}" if values else ""


def _meets(run: Image, conditions: Mapping[str, Any]) -> bool:
    facts = {**run.entities, "datatype": run.datatype, "suffix": run.suffix}
    for entity, wanted in conditions.items():
        choices = wanted if isinstance(wanted, list) else [wanted]
        if not any(_matches(entity, facts.get(entity), choice) for choice in choices):
            return False
    return True


def _matches(entity: str, value: str | None, choice: object) -> bool:
    if choice in _ABSENT or value is None:
        return value is None and choice in _ABSENT
    if choice in _PRESENT:
        return True
    text = strip_label(str(choice), ENTITIES.get(entity, entity))
    if value == text:
        return True
    # An index is a number: run-01 and run-1 are the same.
    return value.isdigit() and text.isdigit() and int(value) == int(text)
