"""Judge the scans of an output folder: thresholds, ratings, verdicts, drift."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuroferry.app.judging import (
    apply_thresholds,
    collect,
    follow_scanners,
    learn_model,
)
from neuroferry.errors import ExitCode, UsageError
from neuroferry.host import in_host_words

VERBS = {
    "apply": "write tables, verdicts and overview again, without measuring anything; with"
    " --thresholds by these rules, which then stay",
    "ratings": "collect ratings from files or folders (FILE ...) into qc_ratings.tsv, and compare"
    " raters; with --scans write verdicts into the dataset's scans.tsv",
    "classify": "learn from the ratings which scans are excluded, and say how well that works",
    "drift": "compare the scans of each scanner with its first ones",
}
"""What the command does."""
_ALLOWED = {
    "apply": {"thresholds", "fd_threshold", "reference", "match"},
    "ratings": {"rater", "scans"},
    "classify": {"ratings", "modality", "site_column"},
    "drift": {"baseline", "scanner_column"},
}
_FLAGS = tuple(sorted(set().union(*_ALLOWED.values())))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    verbs = "; ".join(f"{verb}: {text}" for verb, text in VERBS.items())
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="output folder of neuroferry or MRIQC"
    )
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help=verbs)
    parser.add_argument(
        "files", metavar="FILE", nargs="*", type=Path, help="ratings: files or folders"
    )
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        type=Path,
        help="BIDS dataset, for columns of participants.tsv and scans.tsv (default: the one that"
        " the derivatives name)",
    )
    parser.add_argument(
        "--thresholds", metavar="TOML", type=Path, help="apply: file of thresholds"
    )
    parser.add_argument(
        "--fd-threshold",
        metavar="MM",
        type=float,
        help="apply: displacement above which a volume counts in fd_num and fd_perc",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        type=Path,
        help="apply: records of MRIQC's Web API (JSON, CSV or TSV) to compare with",
    )
    parser.add_argument(
        "--match",
        metavar="FIELD",
        nargs="+",
        help="apply: only records that agree with the scans in these fields, such as"
        " MagneticFieldStrength",
    )
    parser.add_argument(
        "--rater", metavar="NAME", help="ratings: who rated, for files that do not say"
    )
    parser.add_argument(
        "--scans",
        metavar="DIR",
        type=Path,
        help="ratings: BIDS dataset whose scans.tsv get columns qc_...",
    )
    parser.add_argument(
        "--ratings",
        metavar="TSV",
        type=Path,
        help="classify: table of ratings (default: OUT/qc_ratings.tsv)",
    )
    parser.add_argument(
        "--modality", metavar="NAME", help="classify: T1w, T2w, bold or dwi (default: T1w)"
    )
    parser.add_argument(
        "--site-column",
        metavar="NAME",
        help="classify: column that names the site; sites are then left out one at a time too",
    )
    parser.add_argument(
        "--baseline",
        metavar="N",
        help="drift: scans of the baseline, or the date (YYYY-MM-DD) that it ends (default: 20)",
    )
    parser.add_argument(
        "--scanner-column",
        metavar="NAME",
        help="drift: column that names the scanner (default: scanner)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says, and print what came of it.

    Raises
    ------
    UsageError
        If an argument does not belong to the verb.
    """
    verb = arguments.verb
    for name in _FLAGS:
        if getattr(arguments, name) is not None and name not in _ALLOWED[verb]:
            owners = [other for other, allowed in _ALLOWED.items() if name in allowed]
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} belongs to {owners[0]}: neuroferry qc OUT {owners[0]} {flag}"
            )
    if arguments.files and verb != "ratings":
        raise UsageError(f"neuroferry qc OUT {verb} takes no files; see neuroferry qc --help.")
    out, dataset = arguments.out, arguments.dataset
    if verb == "apply":
        lines = apply_thresholds(
            out,
            dataset,
            thresholds=arguments.thresholds,
            fd_threshold=arguments.fd_threshold,
            reference=arguments.reference,
            match=arguments.match or (),
        )
    elif verb == "ratings":
        lines = collect(out, dataset, arguments.files, arguments.rater, arguments.scans)
    elif verb == "classify":
        lines = learn_model(
            out,
            dataset,
            ratings=arguments.ratings,
            modality=arguments.modality or "T1w",
            site_column=arguments.site_column or "",
        )
    else:
        lines = follow_scanners(out, dataset, arguments.baseline, arguments.scanner_column)
    print(in_host_words("\n".join(lines)))
    return int(ExitCode.OK)
