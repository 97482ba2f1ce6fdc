"""``neuroferry intake``: from the scanner to a BIDS dataset and its quality control."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from neuroferry.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse

_NEEDED = ("pydicom", "pynetdicom", "dcm2niix")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Receive DICOM objects as a node of the network and from watched folders, convert each "
        "complete series to BIDS (ROOT/bids), and start its quality control (ROOT/qc). It serves "
        "until it is stopped; a process that was killed is continued by the next."
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the intake")
    look = parser.add_argument_group("looking without changing anything")
    look.add_argument("--status", action="store_true", help="what arrived, and what became of it")
    look.add_argument(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="where each series of a folder of DICOM files would go, and why",
    )
    look.add_argument("--json", action="store_true", help="print either of these as JSON")
    node = parser.add_argument_group("DICOM node")
    node.add_argument("--no-node", action="store_true", help="watch folders only")
    node.add_argument("--aet", default="NEUROFERRY", metavar="TITLE", help="its AE title")
    node.add_argument(
        "--bind",
        default="0.0.0.0",
        metavar="ADDRESS",
        help="address (default: all)",
    )
    node.add_argument(
        "--port", type=int, default=11112, metavar="N", help="port (default: 11112; 0: a free one)"
    )
    node.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="TITLE[@ADDRESS[:PORT]]",
        help="who may send (default: everyone); the port is where storage is confirmed",
    )
    node.add_argument("--tls-certificate", type=Path, metavar="PEM", help="certificate for TLS")
    node.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    node.add_argument(
        "--tls-ca", type=Path, metavar="PEM", help="authority whose certificates senders need"
    )
    node.add_argument(
        "--no-fsync",
        action="store_true",
        help="acknowledge objects before they are flushed to the disk: faster, and lost if the "
        "machine loses power",
    )
    work = parser.add_argument_group("series")
    work.add_argument(
        "--folders",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="folders to watch beside ROOT/incoming; their files stay",
    )
    work.add_argument("--rules", type=Path, metavar="TOML", help="how series are named")
    work.add_argument(
        "--quiet-seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="time without a new object after which a series that does not say how many it has "
        "counts as complete; what comes later is converted with the rest again (default: 20)",
    )
    work.add_argument(
        "--keep-days",
        type=float,
        default=14.0,
        metavar="N",
        help="keep received objects after conversion (default: 14)",
    )
    work.add_argument(
        "--once", action="store_true", help="process what is there, without waiting, and end"
    )
    quality = parser.add_argument_group("quality control")
    quality.add_argument("--no-qc", action="store_true", help="convert only")
    quality.add_argument(
        "--qc-hours",
        type=float,
        default=6.0,
        metavar="H",
        help="time after which a run counts as hanging, and is ended (default: 6)",
    )
    quality.add_argument("--plugin", metavar="NAME", help="where its steps run")
    quality.add_argument("--nprocs", metavar="N", help="processors of each run")
    quality.add_argument("--mem", metavar="AMOUNT", help="memory of each run, such as 8GB")
    quality.add_argument("--config", metavar="TOML", help="settings file of each run")


def run(arguments: argparse.Namespace) -> int:
    """Serve, or show."""
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(
            f"The intake needs {', '.join(lacking)}: pip install 'neuroferry[intake]'. The image "
            "has them."
        )
    # pynetdicom and SQLite want absolute names; links in the path are the user's own
    root = Path(os.path.abspath(arguments.root))  # noqa: PTH100
    if arguments.status or arguments.explain:
        return _show(arguments, root)
    if arguments.json:
        raise UsageError("--json belongs to --status or --explain.")
    return _serve(arguments, root)


def _show(arguments: argparse.Namespace, root: Path) -> int:
    if arguments.status:
        from neuroferry.intake.state import read_state, show_state

        state = read_state(root)
        print(json.dumps(state, indent=2) if arguments.json else show_state(state))
        return int(ExitCode.OK)
    from neuroferry.intake.explain import as_json, as_table, explain_folder
    from neuroferry.intake.rules import read_rules

    found = explain_folder(
        arguments.explain, read_rules(arguments.rules), root if root.exists() else None
    )
    print(as_json(found) if arguments.json else as_table(found))
    return int(ExitCode.OK)


def _serve(arguments: argparse.Namespace, root: Path) -> int:
    from neuroferry.intake.node import NodeSettings, check_title, parse_peer
    from neuroferry.intake.rules import read_rules
    from neuroferry.intake.service import ServiceSettings, run_service

    if min(arguments.quiet_seconds, arguments.keep_days, arguments.qc_hours) < 0:
        raise UsageError("--quiet-seconds, --keep-days and --qc-hours cannot be negative.")
    if not 0 <= arguments.port < 1 << 16:
        raise UsageError(f"--port {arguments.port} is no port: choose one from 1025 to 65535.")
    node = NodeSettings(
        title=check_title(arguments.aet),
        address=arguments.bind,
        port=arguments.port,
        peers=tuple(parse_peer(text) for text in arguments.allow),
        certificate=arguments.tls_certificate,
        key=arguments.tls_key,
        authority=arguments.tls_ca,
        flush=not arguments.no_fsync,
    )
    names = ("plugin", "nprocs", "mem", "config")
    options = [
        word
        for name in names
        if getattr(arguments, name) is not None
        for word in (f"--{name}", str(getattr(arguments, name)))
    ]
    settings = ServiceSettings(
        root=root,
        rules=read_rules(arguments.rules),
        node=None if arguments.no_node or arguments.once else node,
        folders=tuple(Path(os.path.abspath(f)) for f in arguments.folders),  # noqa: PTH100
        quiet_seconds=arguments.quiet_seconds,
        quality=not arguments.no_qc,
        options=tuple(options),
        quality_hours=arguments.qc_hours,
        once=arguments.once,
        keep_days=arguments.keep_days,
    )
    code = run_service(settings, _say)
    sys.stdout.flush()
    sys.stderr.flush()
    # a conversion that goes on is repeated by the next process; nobody waits for it
    os._exit(code)


def _say(text: str) -> None:
    from neuroferry.intake.queue import now

    print(f"{now()[:19]} {text}", flush=True)
