# What all scripts of a run share: questions to SLURM, the run's own jobs, and its record.

record=$folder/../events.jsonl
queue=       # the caller's jobs, after look: NUMBER|TASK|STATE|REASON|NAME
cluster=     # of several clusters the one with the run's jobs
patience=${NEUROFERRY_PATIENCE:-5} # how often SLURM is asked before its answer counts as unknown
me=${SLURM_JOB_ID-} node=${SLURMD_NODENAME-} job_name=${SLURM_JOB_NAME-} # in a job

say() { printf 'neuroferry: %s\n' "$*" >&2 || true; }

# SLURM's programs take defaults from the environment, which would replace what was planned; so would the variables
# of the job that a later round is submitted from. Where jobs run and who pays for them is left to the user.
clean_environment() {
    local name
    for name in $(compgen -e | grep -E '^(SBATCH|SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO|SLURM)_' || true); do
        case $name in
            SBATCH_ACCOUNT | SBATCH_PARTITION | SBATCH_QOS | SBATCH_RESERVATION | SBATCH_CONSTRAINT) ;;
            SBATCH_CLUSTERS | SLURM_CLUSTERS | SLURM_CONF | SLURM_JWT) ;;
            *) unset "$name" ;;
        esac
    done
    unset ${planned[@]+"${planned[@]}"}
    [[ ! -s $folder/cluster-name ]] || cluster=$(<"$folder/cluster-name")
}

# at_cluster PROGRAM ARGUMENT...: for jobs on another cluster than the default one.
at_cluster() { "$1" ${cluster:+"--clusters=$cluster"} "${@:2}"; }

# look: lists the caller's jobs in $queue. Fails if SLURM does not answer: then nothing is known about any job.
look() {
    local tries
    for ((tries = 1; tries <= patience; tries++)); do
        if queue=$(at_cluster squeue --noheader --array --user="$(id -u)" --format='%F|%K|%T|%r|%j' 2>/dev/null) &&
            [[ ! $me || $'\n'$queue == *$'\n'"$me|"* ]]; then
            return
        fi
        ((tries == patience)) || sleep "$((2 * tries))"
    done
    queue=
    return 1
}

# ours: those of the listed jobs that belong to this run, without the one that asks; by number, and by the name
# that is given to this run's jobs only.
ours() {
    touch "$folder/jobs.tsv"
    awk -F '|' -v token="-$token" -v me="$me" '
        FILENAME != "-" { split($0, row, "\t"); known[row[2]]; next }
        $1 == me { next }
        $1 in known || substr($5, length($5) - length(token) + 1) == token
    ' "$folder/jobs.tsv" - <<<"$queue"
}

# workers: those of this run's jobs that process steps.
workers() { ours | awk -F '|' '$5 !~ /^nf-(steward|watch)/'; }

# write_event JSON: appends a line to the record, apart from one that somebody left unfinished.
write_event() {
    local before=
    [[ ! $(tail -c 1 "$record" 2>/dev/null) ]] || before=$'\n'
    {
        flock --wait 10 1 2>/dev/null || true
        printf '%s{"time": "%s", %s}\n' "$before" "$(date -u +%Y-%m-%dT%H:%M:%S.000Z)" "$1"
    } >>"$record"
}

as_json() { # as_json TEXT
    local text=${1//[\"\\[:cntrl:]]/ }
    printf '"%s"' "${text:0:600}"
}

tell() { # tell SENTENCE: a warning in the record
    write_event "\"event\": \"problem\", \"subject\": null, \"severity\": \"warning\", \"message\": $(as_json "$1"), \"path\": null"
}

has_ended() { grep -qs '"event": "run_ended"' "$record"; }

close_record() { # close_record EXIT_CODE REASON
    has_ended || write_event "\"event\": \"run_ended\", \"exit_code\": $1, \"reason\": $(as_json "$2")"
}

last_round() {
    local number=0
    while [[ -e $folder/submitted-$((number + 1)) ]]; do
        number=$((number + 1))
    done
    printf '%s' "$number"
}

# cancel_all: cancels every job of this run but the one that asks, and waits until none is left. Jobs that SLURM
# accepts later find the mark and end at once. Fails if some are left, or if SLURM does not answer.
cancel_all() {
    local tries left
    : >"$folder/stopped"
    cut -f 2 "$folder/jobs.tsv" 2>/dev/null | grep -xE '[0-9]+' | grep -vxF -e "${me:-none}" |
        at_cluster xargs_scancel || true
    for ((tries = 0; tries < ${NEUROFERRY_CANCEL_TRIES:-60}; tries++)); do
        look || return 1
        left=$(ours | cut -d '|' -f 1 | sort -u)
        [[ $left ]] || return 0
        at_cluster xargs_scancel <<<"$left" || true
        sleep "$((tries < 10 ? 1 : 2))"
    done
    return 1
}
xargs_scancel() { xargs -r scancel "$@" 2>/dev/null; }

# sbatch_once ARGUMENT...: the number of the submitted job in $sent, wherever sbatch printed it among other lines;
# otherwise its message in $refusal. A signal does not stop sbatch half-way, as the job would not be known then.
sent='' refusal=''
sbatch_once() {
    local answer pid
    answer=$(mktemp -d)
    at_cluster sbatch --parsable "$@" >"$answer/out" 2>"$answer/errors" </dev/null &
    pid=$!
    wait "$pid" || true
    while kill -0 "$pid" 2>/dev/null; do
        wait "$pid" || true
    done
    sent=$(sed -n -E -e 's/^.*Submitted batch job ([0-9]+)( on cluster ([^ ]+))?.*$/\1;\3/; /^[0-9]+(;[[:alnum:]_.-]*)?$/p' "$answer/out" | tail -n 1)
    refusal=$(cat "$answer/errors" "$answer/out" | tr '\n' ' ')
    rm -rf "$answer"
    if [[ $sent == *\;?* ]]; then
        cluster=${sent#*;}
        printf '%s\n' "$cluster" >"$folder/cluster-name"
    fi
    sent=${sent%%;*}
    [[ $sent ]]
}

# sbatch_surely NAME ARGUMENT...: submits a job under a name of its own, so that it can be found where sbatch failed
# although the job was accepted; tried again, as controllers are often too busy to answer.
sbatch_surely() {
    local name=$1-$token tries
    shift
    for ((tries = 1; tries <= patience; tries++)); do
        if sbatch_once --job-name="$name" "$@"; then
            return
        fi
        [[ ! $hasty || ! $refusal =~ $lasting_refusals ]] || return 1
        [[ ! ${interrupted-} ]] || return 1
        sleep "$((tries < 5 ? 2 * tries : 10))"
        look || continue
        sent=$(awk -F '|' -v name="$name" '$5 == name {print $1; exit}' <<<"$queue")
        [[ ! $sent ]] || return 0
    done
    return 1
}
hasty= # where somebody waits for the answer
readonly lasting_refusals='[Ii]nvalid|violates|denied|not permitted|can ?not be satisfied|not available|unrecognized|exceed|unknown|too (big|large|long)|Unspecified'

note_job() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "${3:-1}" "${4:-1}" >>"$folder/jobs.tsv"; }

suffix_of() { [[ $1 == 0 ]] || printf -- '-%s' "$1"; }

# send_steward ROUND [OPTION...]: the last job of a round, once more.
send_steward() {
    local suffix count
    suffix=$(suffix_of "$1")
    count=$(grep -c "^steward$suffix"$'\t' "$folder/jobs.tsv" 2>/dev/null) || true
    sbatch_surely "nf-steward$suffix.$count" "${@:2}" --output="${folder//%/%%}/log/%x-%j.txt" \
        "$scripts/steward$suffix.sh" "$folder" || return 1
    note_job "steward$suffix" "$sent"
}

send_watch() { # send_watch ROUND
    local suffix count
    [[ $watch_minutes ]] || return 0
    suffix=$(suffix_of "$1")
    count=$(grep -c "^watch$suffix"$'\t' "$folder/jobs.tsv" 2>/dev/null) || true
    sbatch_surely "nf-watch$suffix.$count" "--begin=now+${watch_minutes}minutes" --output=/dev/null \
        "$scripts/watch$suffix.sh" "$folder" || return 1
    note_job "watch$suffix" "$sent"
    # the steward, which cancels the watches on the list when it ends, may have ended before this line was written
    [[ ! -e $folder/closed-$1 ]] || at_cluster scancel "$sent" || true
}

cancel_watches() { # cancel_watches ROUND
    awk -v name="watch$(suffix_of "$1")" '$1 == name && $2 ~ /^[0-9]+$/ {print $2}' "$folder/jobs.tsv" |
        at_cluster xargs_scancel || true
}

# replace_steward ROUND REASON [OPTION...]: sends a lost steward again, as often as the settings allow; then the run
# is closed as soon as none of its jobs is left.
replace_steward() {
    local times
    times=$(grep -cxF -e "$1" "$folder/lost.txt" 2>/dev/null) || true
    if ((times < retries)); then
        send_steward "$1" "${@:3}" || send_steward "$1" || return 1
        printf '%s\n' "$1" >>"$folder/lost.txt"
        tell "$2; the last job, the steward, was submitted again."
    elif look && [[ ! $(workers) ]]; then
        close_record "$unavailable" "$2. Its log is in $folder/log. Correct the cause and run the same neuroferry command again: finished steps are kept."
    fi
}
unavailable=75
