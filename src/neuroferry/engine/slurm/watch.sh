# A job that SLURM could not start on its node (a prolog that fails, a disk that is gone) is put on hold, and
# what waits for it would wait for ever. Such jobs are let go as often as the settings allow; then they are
# cancelled, and the steward says why their steps never ran. What a person has put on hold stays on hold.

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
        tell "Job $task ($name) could not be started ($reason); it was let go again."
    else
        printf '%s\n' "$task" >>"$folder/given-up.txt"
        tell "Job $task ($name) could not be started ($reason), $((times + 1)) times; it was cancelled."
        scancel "$task"
    fi
done < <(squeue --noheader --array --states=PENDING --format='%F_%K|%j|%r' --jobs="$ids" 2>/dev/null)

# send NAME OPTION...: hands the script of that name to sbatch.
send() {
    local id
    id=$(sbatch --parsable "${@:2}" "$folder/$1$suffix.sh" "$folder") || return 0
    printf '%s\t%s\t1\t1\n' "$1$suffix" "${id%%;*}" >>"$folder/jobs.tsv"
    # a steward that has ended meanwhile did not see it
    [[ $1 != watch || ! -e $folder/closed-$round ]] || scancel "${id%%;*}" || true
}

# The steward waits, or is at work, or has done it; one that could not start, or died, is sent again.
steward=$(squeue --noheader --format='%j %T' --jobs="$ids" 2>/dev/null | grep "^nf-steward$suffix ") || true
if [[ ! $steward && ! -e $folder/submitted-$((round + 1)) ]] &&
    ! grep -q '"event": "run_ended"' "$folder/../events.jsonl"; then
    times=$(grep -c "^steward$suffix"$'\t' "$folder/jobs.tsv") || times=0
    ((times > retries)) || steward=again
fi
# The watch first: the steward takes out every watch that is on the list when it ends.
if [[ $steward ]]; then
    send watch "--begin=now+${minutes}minutes" --output=/dev/null
fi
if [[ $steward == again ]]; then
    tell "The job that comes last is gone; it was submitted again."
    send steward --output="${folder//%/%%}/log/%x-%j.txt"
fi
