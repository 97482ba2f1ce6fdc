# In the end, either all jobs of this round are in the queue or none: if sbatch refuses one, all earlier ones
# are cancelled, and the exit code is 75.
declare -A id=()
jobs=()
deferred=
interrupted=

# undo REASON: cancels all jobs of the run, closes the record, and ends.
undo() {
    trap '' INT TERM
    close_record 75 "$1"
    say "$1"
    if cancel_all; then
        say "No job of this round is left in the queue. Correct the cause, such as [slurm] account, partition or" \
            "extra in the settings, and run the same neuroferry command again: finished steps are kept."
    else
        say "Some jobs may still be in the queue, as SLURM does not answer or does not end them; they end by" \
            "themselves as soon as they start. To cancel them: bash $folder/cancel.sh"
    fi
    exit 75
}

undo_if_interrupted() {
    [[ ! $interrupted ]] || undo "The submission was interrupted."
}

# send NAME ARGUMENT...: submits one job; its number is in $sent afterwards.
send() {
    undo_if_interrupted
    sbatch_surely "$@" || {
        undo_if_interrupted
        undo "sbatch refused a job: ${refusal:-it printed no job number. }$(advise)"
    }
    jobs+=("$sent")
}

advise() {
    case $refusal in
        *'job submit limit'* | *MaxSubmit*)
            printf 'If you have too many jobs in the queue, set max_submitted in the section [slurm] of the settings.'
            ;;
        *[Tt]ime?limit*) printf 'The longest time to request is --slurm-max-minutes.' ;;
        *[Mm]emory*) printf 'The most memory to request is --slurm-max-mem; --slurm-no-mem requests none.' ;;
    esac
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
    send "nf-$pack.$first" "${options[@]}" "$scripts/$pack.sh" "$folder" "$first"
    id[$pack]=$sent
    note_job "$pack" "$sent" "$first" "$last"
    undo_if_interrupted
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

# count_queue OPTION...: how many jobs are in the queue; none if SLURM does not say.
count_queue() {
    local tries listed
    for ((tries = 1; tries <= patience; tries++)); do
        if listed=$(at_cluster squeue --noheader --array "$@" 2>/dev/null); then
            grep -c . <<<"$listed" || true
            return
        fi
        sleep 1
    done
    printf 0
}

# The site's limits, unless the settings give them; indices are below MaxArraySize, and the steward and the watch
# take one job each.
find_limits() {
    array_size=$((${max_array_size:-$(site_limit MaxArraySize 1001)} - 1))
    if [[ $max_submitted ]]; then
        room=$((max_submitted - $(count_queue --states=PENDING,RUNNING,SUSPENDED "--user=$(id -u)") - 2))
    else
        room=$((($(site_limit MaxJobCount 10000) - $(count_queue)) * 9 / 10 - 2))
    fi
}

# In a later round nobody is there to run the command again, so it waits for jobs in a full queue to end.
find_room() {
    local tries
    find_limits
    if ((round > 0 && room < smallest)); then
        # it counts as well, and is needed least
        cancel_watches "$((round - 1))"
        find_limits
    fi
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

# Jobs of another run must not process the same participants in the same folders.
refuse_if_at_work() {
    local other numbers both
    for other in "$folder"/../../*/slurm; do
        [[ -e $other/submitted-0 && ! $other -ef $folder ]] || continue
        ! grep -qs '"event": "run_ended"' "$other/../events.jsonl" || continue
        both=$(comm -12 <(sort "$folder/units" 2>/dev/null) <(sort "$other/units" 2>/dev/null) | cut -f 1 | head -n 1) || true
        [[ $both ]] || continue
        numbers=$(cut -f 2 "$other/jobs.tsv" 2>/dev/null | grep -xE '[0-9]+') || true
        # a submission that has begun just now may not have any number yet
        if [[ ! $(find "$other/submitted-0" "$other/jobs.tsv" -mmin -10 2>/dev/null) || -e $other/submitted-0/all ]] &&
            look && ! cut -d '|' -f 1 <<<"$queue" | grep -xF -f <(printf '%s\n' "${numbers:-none}") >/dev/null; then
            continue
        fi
        other=$(cd -- "$other/.." && pwd -P)
        close_record 75 "Jobs of the run ${other##*/} are processing $both."
        say "Jobs of another run (${other##*/}) are processing $both, so nothing was submitted. Wait for them, or cancel them: bash $other/slurm/cancel.sh"
        exit 75
    done
}

begin() {
    trusts "$scripts/."
    clean_environment
    command -v sbatch >/dev/null || {
        say "sbatch is not available here. Run this on a submit host: bash $folder/${0##*/}"
        exit 69
    }
    if [[ -e $folder/submitted-$round ]]; then
        say "these jobs have already been submitted (neuroferry status shows their progress)."
        exit 75
    elif has_ended; then
        say "This run has already ended. Run the neuroferry command again: finished steps are kept."
        exit 75
    fi
    # two submissions at once see each other
    exec {turn}<"$folder/../.."
    flock --wait 60 "$turn" 2>/dev/null || true
    ((round > 0)) || refuse_if_at_work
    mkdir "$folder/submitted-$round" 2>/dev/null || {
        say "these jobs have already been submitted, by another process just now."
        exit 75
    }
    exec {turn}>&-
    if ((round == 0)); then
        hasty=yes
    else
        patience=$((patience * 2))
    fi
    # A closed terminal must not stop the submission half-way.
    trap '' HUP
    trap 'interrupted=yes; say "Interrupted: as soon as sbatch answers, all jobs of this run are cancelled."' INT TERM
    mkdir -p "$folder/log"
    identify_cluster >"$folder/site"
    find_room
}

# Which of several clusters knows the numbers of the jobs.
identify_cluster() {
    scontrol show config 2>/dev/null | awk '$1 == "ClusterName" || $1 == "SlurmctldHost[0]" {print $3}' | paste -s -d ' '
}

# A job whose number was lost on the way may be there twice.
cancel_doubles() {
    local known doubles
    look || return 0
    known=$(cut -f 2 "$folder/jobs.tsv")
    doubles=$(ours | awk -F '|' '$5 !~ /^nf-watch/ {print $1}' | sort -u | grep -vxF -e "$known") || return 0
    at_cluster xargs_scancel <<<"$doubles" || true
}

# Some jobs can never start, and the queue does not say so by itself.
name_what_never_starts() {
    local tries reasons=''
    for ((tries = 0; tries < 5; tries++)); do
        look || return 0
        reasons=$(ours | awk -F '|' '$3 == "PENDING" {print $4}' | sort -u | grep -xE "$never") || true
        if [[ $reasons ]]; then
            say "WARNING: some of these jobs cannot start ($(paste -s -d , <<<"$reasons")):" \
                "neuroferry status says why, neuroferry cancel removes them."
            return
        fi
        # before the scheduler has looked at a job, its reason is one of these
        ours | awk -F '|' '$3 == "PENDING" {print $4}' | grep -xE 'None|Priority|\(null\)' >/dev/null || return 0
        sleep 1
    done
}

finish() {
    if ((${#jobs[@]} == 0)); then
        undo "The queue has no room for the jobs of even one subject (see max_submitted in the settings)."
    fi
    local after steward
    after=$(printf ':%s' "${jobs[@]}")
    send "nf-steward$suffix" --dependency="afterany$after" --output="${folder//%/%%}/log/%x-%j.txt" \
        "$scripts/steward$suffix.sh" "$folder"
    steward=$sent
    note_job "steward$suffix" "$steward"
    undo_if_interrupted
    trap - INT TERM
    # the run works without it
    send_watch "$round" || true
    : >"$folder/submitted-$round/all"
    cancel_doubles
    say "${#jobs[@]} jobs and job arrays are in the queue${deferred:+; the rest follows when these are done}."
    ((round > 0)) || name_what_never_starts
}
