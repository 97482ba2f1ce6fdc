# A job that SLURM could not start on its node (a failed prolog, a missing disk) is put on hold, and jobs that
# depend on it would wait for ever. Such jobs are released as often as the settings allow; then they are
# cancelled, and the steward reports why their steps never ran. Jobs that a user has put on hold stay on hold.

tell() {
    local when
    when=$(date -u +%Y-%m-%dT%H:%M:%S.000Z)
    printf '{"time": "%s", "event": "problem", "subject": null, "severity": "warning", "message": "%s", "path": null}\n' \
        "$when" "$1" >>"$folder/../events.jsonl"
}

ids=$(cut -f 2 "$folder/jobs.tsv" | paste -s -d ,)
while IFS='|' read -r task name reason; do
    case $reason in
        *launch*failed*held* | *requeue*held* | JobHoldMaxRequeue) ;;
        *) continue ;;
    esac
    times=$(grep -cxF -e "$task" "$folder/held.txt" 2>/dev/null) || times=0
    printf '%s\n' "$task" >>"$folder/held.txt"
    if ((times < retries)) && scontrol release "$task"; then
        tell "Job $task ($name) could not be started ($reason); it was released again."
    else
        printf '%s\n' "$task" >>"$folder/given-up.txt"
        tell "Job $task ($name) could not be started ($reason), attempts: $((times + 1)); it was cancelled."
        scancel "$task"
    fi
done < <(squeue --noheader --array --states=PENDING --format='%F_%K|%j|%r' --jobs="$ids" 2>/dev/null)

# send NAME OPTION...: submits the script of that name with sbatch.
send() {
    local id
    id=$(sbatch --parsable "${@:2}" "$folder/$1$suffix.sh" "$folder") || return 0
    printf '%s\t%s\t1\t1\n' "$1$suffix" "${id%%;*}" >>"$folder/jobs.tsv"
    # a steward that has ended in the meantime did not see it
    [[ $1 != watch || ! -e $folder/closed-$round ]] || scancel "${id%%;*}" || true
}

# The steward is pending, running or done; one that could not start, or died, is submitted again.
steward=$(squeue --noheader --format='%j %T' --jobs="$ids" 2>/dev/null | grep "^nf-steward$suffix ") || true
if [[ ! $steward && ! -e $folder/submitted-$((round + 1)) ]] &&
    ! grep -q '"event": "run_ended"' "$folder/../events.jsonl"; then
    times=$(grep -c "^steward$suffix"$'\t' "$folder/jobs.tsv") || times=0
    ((times > retries)) || steward=again
fi
# The watch first: the steward cancels every watch that is on the list when it ends.
if [[ $steward ]]; then
    send watch "--begin=now+${minutes}minutes" --output=/dev/null
fi
if [[ $steward == again ]]; then
    tell "The last job, the steward, was lost; it was submitted again."
    send steward --output="${folder//%/%%}/log/%x-%j.txt"
fi
