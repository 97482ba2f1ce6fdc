#!/usr/bin/env bash
# Submits a run's jobs with this machine's own sbatch. Written by neuroferry; run it with bash.
#
# In the end, either all jobs of this round are in the queue or none: if sbatch refuses one, all earlier ones
# are cancelled, and the exit code is 75.
set -euo pipefail

folder=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# Scripts are reached through the open folder, so that nobody who can write above it can replace it.
exec {own}<"$folder"
scripts=/proc/$$/fd/$own
declare -A id=()
jobs=()
deferred=

say() { printf 'neuroferry: %s\n' "$*" >&2 || true; }

# undo REASON: cancels all jobs, closes the record, and ends.
undo() {
    local reason=${1//[\"\\[:cntrl:]]/ } when
    trap - INT TERM
    if ((${#jobs[@]} > 0)); then
        scancel "${jobs[@]}" || true
    fi
    when=$(date -u +%Y-%m-%dT%H:%M:%S.000Z)
    printf '{"time": "%s", "event": "run_ended", "exit_code": 75, "reason": "%s"}\n' "$when" "$reason" \
        >>"$folder/../events.jsonl"
    say "$reason"
    say "No job of this round is left in the queue. Correct the cause, such as [slurm] account, partition or" \
        "extra in the settings, and run the same neuroferry command again: finished steps are kept."
    exit 75
}

# send ARGUMENT...: submits one job with sbatch; its id is in $sent afterwards.
sent=
send() {
    local errors
    errors=$(mktemp)
    if ! sent=$(sbatch --parsable "$@" 2>"$errors"); then
        sent=$(tr '\n' ' ' <"$errors")
        rm -f "$errors"
        undo "sbatch refused a job: $sent"
    fi
    rm -f "$errors"
    sent=${sent%%;*}
    [[ $sent =~ ^[0-9]+$ ]] || undo "sbatch printed '$sent' instead of a job id."
    jobs+=("$sent")
}

# submit PACK FIRST LAST [PACK...]: one pack of the subjects FIRST to LAST, after the PACKs of the same subjects.
submit() {
    local pack=$1 first=$2 last=$3 other after='' options
    shift 3
    trusts "$scripts/$pack.sh"
    for other; do
        after+=:${id[$other]}
    done
    options=(--array="1-$((last - first + 1))${tasks_at_once:+%$tasks_at_once}"
        --output="${folder//%/%%}/log/%x-%A_%a.txt")
    if [[ $after ]]; then
        options+=(--dependency="aftercorr$after")
    fi
    send "${options[@]}" "$scripts/$pack.sh" "$folder" "$first"
    id[$pack]=$sent
    printf '%s\t%s\t%s\t%s\n' "$pack" "$sent" "$first" "$last" >>"$folder/jobs.tsv"
}

# in_chunks FUNCTION SUBJECTS PACKS: as many subjects at a time as an array may have; those that do not fit into
# the queue are left to the steward.
in_chunks() {
    local first=1 last fits
    while ((first <= $2)); do
        fits=$((room / $3))
        if ((fits < 1)); then
            deferred=yes
            return
        fi
        last=$((first + (fits < array_size ? fits : array_size) - 1))
        last=$((last < $2 ? last : $2))
        "$1" "$first" "$last"
        room=$((room - $3 * (last - first + 1)))
        first=$((last + 1))
    done
}

site_limit() { # site_limit NAME DEFAULT
    local found
    found=$(scontrol show config 2>/dev/null | awk -v name="$1" '$1 == name {print $3; exit}') || true
    [[ $found =~ ^[0-9]+$ ]] || found=$2
    printf '%s' "$found"
}

# The site's limits, unless the settings give them; indices are below MaxArraySize, and the steward and the watch
# take one job each.
find_limits() {
    local queued
    array_size=$((${max_array_size:-$(site_limit MaxArraySize 1001)} - 1))
    if [[ $max_submitted ]]; then
        queued=$(squeue --noheader --array --states=PENDING,RUNNING,SUSPENDED --user="$(id -un)" 2>/dev/null |
            wc -l) || queued=0
        room=$((max_submitted - queued - 2))
    else
        queued=$(squeue --noheader --array 2>/dev/null | wc -l) || queued=0
        room=$((($(site_limit MaxJobCount 10000) - queued) * 9 / 10 - 2))
    fi
}

# In a later round nobody is there to run the command again, so it waits for jobs in a full queue to end.
find_room() {
    local tries
    find_limits
    for ((tries = 0; round > 0 && room < smallest && tries < 60; tries++)); do
        ((tries > 0)) || say "The queue is full; waiting up to ten minutes for room."
        sleep 10
        find_limits
    done
}

# trusts FILE: whether it is the caller's own.
trusts() {
    [[ $anyone || (-O $1 && ! -L $1) ]] && return
    say "$folder/${1##*/} does not belong to you, so it was not submitted. Run the neuroferry command again."
    exit 77
}

begin() {
    trusts "$scripts/."
    command -v sbatch >/dev/null || {
        say "sbatch is not available here. Run this on a submit host: bash $folder/${0##*/}"
        exit 69
    }
    mkdir "$folder/submitted-$round" 2>/dev/null || {
        say "these jobs have already been submitted (neuroferry status shows their progress)."
        exit 75
    }
    # A closed terminal must not stop the submission half-way.
    trap '' HUP
    trap 'undo "The submission was interrupted."' INT TERM
    mkdir -p "$folder/log"
    find_room
}

# The run works without it.
watch() {
    local id
    [[ $watch_minutes ]] || return 0
    id=$(sbatch --parsable "--begin=now+${watch_minutes}minutes" --output=/dev/null \
        "$scripts/watch$suffix.sh" "$folder" 2>/dev/null) || return 0
    printf 'watch%s\t%s\t1\t1\n' "$suffix" "${id%%;*}" >>"$folder/jobs.tsv"
    # The steward cancels the watches on the list when it ends, which may be before this line is written.
    [[ ! -e $folder/closed-$round ]] || scancel "${id%%;*}" || true
}

finish() {
    if ((${#jobs[@]} == 0)); then
        undo "The queue has no room for the jobs of even one subject (see max_submitted in the settings)."
    fi
    local after
    after=$(printf ':%s' "${jobs[@]}")
    send --dependency="afterany$after" --output="${folder//%/%%}/log/%x-%j.txt" \
        "$scripts/steward$suffix.sh" "$folder"
    printf 'steward%s\t%s\t1\t1\n' "$suffix" "$sent" >>"$folder/jobs.tsv"
    trap - INT TERM
    watch
    say "${#jobs[@]} jobs and job arrays are in the queue${deferred:+; the rest follows when these are done}."
}
