"""Bash scripts that the host runs: one for each pack, the submit script, the steward."""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from neuroferry.config import SlurmConfig
from neuroferry.engine.slurm.manifest import Group, Manifest, Pack
from neuroferry.engine.slurm.queue import NEVER
from neuroferry.trust import VARIABLE, make_own_folder, trusted, write_own

# variables that describe the allocation; the container sees no others of the environment
_PASSED = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE",
    "SLURM_MEM_PER_NODE",
    "SLURMD_NODENAME",
)
# binding of the temporary folder in the launcher's words, which differs between machines
_TMP_WORD = 'type=bind,"source=${TMPDIR:-/tmp}","destination=/tmp"'
_TMP_IN_BASH = r'"type=bind,\"source=${TMPDIR:-/tmp}\",\"destination=/tmp\""'
_STEWARD_MEM_MB = 2048
_SUBJECTS_A_MEGABYTE = 5  # it reads their records together
_STEWARD_MINUTES = 30
_WATCH_MEM_MB = 100
_WATCH_MINUTES = 5
_SUBJECTS_A_MINUTE = 20
# not every script uses all of the words that they share
_SHELLCHECK = "# shellcheck disable=SC2034,SC2154,SC2317"
_FOLDER_OF_SCRIPT = 'folder=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)'
# options of sbatch for which users have variables, which would go over the lines of a script
_USERS_VARIABLES = {
    "account": "A",
    "partition": "p",
    "qos": "q",
    "reservation": "",
    "constraint": "C",
    "clusters": "M",
}


def write_scripts(manifest: Manifest, run_dir: Path, enter: str) -> Path:
    """Write all scripts that submit one round.

    Parameters
    ----------
    manifest : Manifest
        Manifest of the round.
    run_dir : pathlib.Path
        Folder of the run, as seen from here.
    enter : str
        Bash words that start neuroferry on a node of the cluster.

    Returns
    -------
    pathlib.Path
        The script that submits, written last.
    """
    folder = run_dir / "slurm"
    make_own_folder(folder)
    for group in manifest.groups:
        for pack in group.packs:
            _write(folder / f"{pack.name}.sh", pack_script(pack, manifest, enter))
    suffix = _suffix(manifest)
    _write(folder / f"steward{suffix}.sh", steward_script(manifest, enter))
    _write(folder / f"watch{suffix}.sh", watch_script(manifest))
    _write(folder / "cancel.sh", cancel_script(manifest, enter))
    _write(folder / "enter", enter + "\n")
    submit = folder / ("submit.sh" if not manifest.round else f"resubmit-{manifest.round}.sh")
    _write(submit, submit_script(manifest))
    return submit


def _write(path: Path, text: str) -> None:
    write_own(path, text, 0o755 if path.suffix == ".sh" else 0o644)


def header(
    name: str, settings: SlurmConfig, mem_mb: int, cpus: int, minutes: int, gpus: int = 0
) -> list[str]:
    """Return the ``#SBATCH`` lines with the resources of a job."""
    options = [
        f"--job-name=nf-{name}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={cpus}",
        *([] if settings.no_mem else [f"--mem={mem_mb}M"]),
        f"--time={minutes}",
        *([f"--gres={settings.gpu_gres}:{gpus}"] if gpus else []),
        "--requeue",
        "--open-mode=append",
        "--kill-on-invalid-dep=yes",
    ]
    for key in ("account", "partition", "qos", "constraint"):
        value = getattr(settings, key)
        if value:
            options.append(f"--{key}={shlex.quote(value)}")
    options += settings.extra
    return ["#!/usr/bin/env bash", *(f"#SBATCH {option}" for option in options)]


def planned_variables(settings: SlurmConfig) -> list[str]:
    """List the user's variables for ``sbatch`` that would replace settings of the run."""
    found: list[str] = []
    for option, letter in _USERS_VARIABLES.items():
        given = any(
            re.match(rf"--{option}(=|\s|$)", extra) or (letter and extra.startswith(f"-{letter}"))
            for extra in settings.extra
        )
        if given or getattr(settings, option, False):
            found += [f"SBATCH_{option.upper()}", *["SLURM_CLUSTERS"] * (option == "clusters")]
    return found


def _entry(settings: SlurmConfig, enter: str) -> list[str]:
    """Return the first lines of every script that re-enters neuroferry."""
    return [
        *settings.prolog,
        f"enter=({enter})",
        f"for name in {' '.join(_PASSED)}; do",
        "    if [[ ${!name-} ]]; then",
        '        export "APPTAINERENV_$name=${!name}" "SINGULARITYENV_$name=${!name}"',
        "    fi",
        "done",
    ]


def pack_script(pack: Pack, manifest: Manifest, enter: str) -> str:
    """Return the script of one pack's job array; it takes the folder and the first subject."""
    lines = header(pack.name, manifest.settings, pack.mem_mb, pack.cpus, pack.minutes, pack.gpus)
    lines += [
        "# the run was cancelled before this job was known",
        "[[ ! -e $1/stopped ]] || exit 0",
        *_entry(manifest.settings, enter),
        # the image needs the drivers of the host
        *(["export APPTAINER_NV=1 SINGULARITY_NV=1"] if pack.gpus else []),
        "folder=$1",
        f"round={manifest.round}",
        f"pack={pack.name}",
        f"run={shlex.quote(manifest.run_dir)}",
        "task=$(($2 + SLURM_ARRAY_TASK_ID - 1))",
    ]
    return "\n".join(lines) + "\n" + _snippet("pack.sh")


def steward_script(manifest: Manifest, enter: str) -> str:
    """Return the script of the last job, which examines how all others ended."""
    subjects = sum(len(group.members) for group in manifest.groups)
    minutes = _STEWARD_MINUTES + subjects // _SUBJECTS_A_MINUTE
    limit = manifest.settings.max_minutes
    minutes = min(minutes, limit) if limit else minutes
    memory = _STEWARD_MEM_MB + subjects // _SUBJECTS_A_MEGABYTE
    lines = header(f"steward{_suffix(manifest)}", manifest.settings, memory, 1, minutes)
    lines.insert(1, _SHELLCHECK)
    lines += [
        *_entry(manifest.settings, enter),
        "folder=$1",
        # through the open folder, so that nobody can replace a script
        'exec {own}<"$folder"',
        "scripts=/proc/$$/fd/$own",
        *_variables(manifest),
    ]
    return "\n".join(lines) + "\n" + _snippet("queue.sh") + "\n" + _snippet("steward.sh")


def watch_script(manifest: Manifest) -> str:
    """Return the script of the job that regularly looks for jobs that SLURM keeps on hold."""
    name = f"watch{_suffix(manifest)}"
    lines = header(name, manifest.settings, _WATCH_MEM_MB, 1, _WATCH_MINUTES)
    lines.insert(1, _SHELLCHECK)
    lines += [
        "folder=$1",
        'exec {own}<"$folder"',
        "scripts=/proc/$$/fd/$own",
        *_variables(manifest),
    ]
    return "\n".join(lines) + "\n" + _snippet("queue.sh") + "\n" + _snippet("watch.sh")


def cancel_script(manifest: Manifest, enter: str) -> str:
    """Return the script that cancels a run's jobs and closes its record."""
    lines = [
        "#!/usr/bin/env bash",
        _SHELLCHECK,
        "# Cancels this run's jobs. Written by neuroferry; run it with bash.",
        *_entry(manifest.settings, enter),
        _FOLDER_OF_SCRIPT,
        *_variables(manifest),
    ]
    return "\n".join(lines) + "\n" + _snippet("queue.sh") + "\n" + _snippet("cancel.sh")


def _suffix(manifest: Manifest) -> str:
    return f"-{manifest.round}" if manifest.round else ""


def _variables(manifest: Manifest) -> list[str]:
    """Return what the snippets know of the run."""
    settings = manifest.settings
    return [
        f"round={manifest.round}",
        f"run={shlex.quote(manifest.run_dir)}",
        f"token={manifest.token}",
        f"retries={settings.retries}",
        f"watch_minutes={settings.watch_minutes or ''}",
        f"anyone={'yes' if trusted().everyone else ''}",
        f"never={shlex.quote('|'.join(NEVER))}",
        f"planned=({' '.join(planned_variables(settings))})",
    ]


def submit_script(manifest: Manifest) -> str:
    """Return the script that the host runs to submit one round."""
    settings = manifest.settings
    lines = [
        "#!/usr/bin/env bash",
        _SHELLCHECK,
        "# Submits a run's jobs with this machine's own sbatch. Written by neuroferry.",
        "set -euo pipefail",
        _FOLDER_OF_SCRIPT,
        "# Scripts are reached through the open folder, so that nobody can replace it.",
        'exec {own}<"$folder"',
        "scripts=/proc/$$/fd/$own",
        *_variables(manifest),
        f"suffix={_suffix(manifest)}",
        f"tasks_at_once={settings.tasks_at_once or ''}",
        f"max_array_size={settings.max_array_size or ''}",
        f"max_submitted={settings.max_submitted or ''}",
        f"smallest={min(len(group.packs) for group in manifest.groups)}",
        _snippet("queue.sh"),
        _snippet("submit.sh"),
        "begin",
    ]
    for group in manifest.groups:
        lines += _submit_group(group)
    return "\n".join([*lines, "finish"]) + "\n"


def _snippet(name: str) -> str:
    return resources.files("neuroferry.engine.slurm").joinpath(name).read_text("utf-8")


def _submit_group(group: Group) -> list[str]:
    function = f"submit_{group.name.replace('-', '_')}"
    body = [" ".join(["    submit", pack.name, '"$1" "$2"', *pack.after]) for pack in group.packs]
    names = f"{len(group.members)} of {group.members[0].name} and others alike"
    return [
        f"{function}() {{ # {names}",
        *body,
        "}",
        f"in_chunks {function} {len(group.members)} {len(group.packs)}",
    ]


def host_command(environ: Mapping[str, str], python: str) -> str:
    """Find the bash words that start the same neuroferry on a node of the cluster.

    Parameters
    ----------
    environ : mapping
        The environment. The launcher passes the words in ``NEUROFERRY_REENTER``, one per line and
        in base64, as Apptainer rewrites quotes; in an image that was started without it, they are
        derived from Apptainer's variables.
    python : str
        The interpreter, for a run outside an image.
    """
    given = environ.get("NEUROFERRY_REENTER")
    if given:
        return quote_words(parse_words(base64.b64decode(given).decode()))
    image = environ.get("APPTAINER_CONTAINER") or environ.get("SINGULARITY_CONTAINER")
    if image:
        program = "apptainer" if environ.get("APPTAINER_CONTAINER") else "singularity"
        words = [program, "--quiet", "exec"]
        binds = environ.get("APPTAINER_BIND") or environ.get("SINGULARITY_BIND")
        if binds:
            words += ["--bind", binds]
        return shlex.join([*words, image, "neuroferry"])
    words = [python, "-m", "neuroferry"]
    variables = []
    if environ.get("PYTHONPATH"):
        folders = [str(Path(p).absolute()) for p in environ["PYTHONPATH"].split(os.pathsep) if p]
        variables.append(f"PYTHONPATH={os.pathsep.join(folders)}")
    if environ.get(VARIABLE):
        variables.append(f"{VARIABLE}={environ[VARIABLE]}")
    return shlex.join(["env", *variables, *words] if variables else words)


def parse_words(text: str) -> list[str]:
    r"""Parse the launcher's own files: one word a line, with ``\\`` and ``\n`` for what is in it.

    Examples
    --------
    >>> parse_words("env\na\\nb\nc\\\\n\n")
    ['env', 'a\nb', 'c\\n']
    """
    meaning = {"\\n": "\n", "\\\\": "\\"}
    return [
        re.sub(r"\\[n\\]", lambda match: meaning[match.group()], line)
        for line in text.removesuffix("\n").split("\n")
    ]


def quote_words(words: Iterable[str]) -> str:
    """Quote words for bash, except the temporary folder, which the other machine fills in."""
    return " ".join(_TMP_IN_BASH if word == _TMP_WORD else shlex.quote(word) for word in words)


def in_image(environ: Mapping[str, str]) -> bool:
    """Tell whether this process runs inside an image."""
    return bool(environ.get("APPTAINER_CONTAINER") or environ.get("SINGULARITY_CONTAINER"))


def host_path(path: Path, environ: Mapping[str, str]) -> str:
    """Translate a path below the output folder to its path on the host."""
    out = environ.get("NEUROFERRY_HOST_OUT")
    if out and (path == Path("/out") or Path("/out") in path.parents):
        return str(Path(out) / path.relative_to("/out"))
    for bind in (environ.get("APPTAINER_BIND") or "").split(","):
        source, _, target = bind.partition(":")
        target = target.partition(":")[0] or source
        if target and (path == Path(target) or Path(target) in path.parents):
            return str(Path(source) / path.relative_to(target))
    return str(path)
