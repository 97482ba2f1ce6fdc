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

# Again later, as long as the steward waits.
if squeue --noheader --states=PENDING --format=%j --jobs="$ids" 2>/dev/null | grep -qx "nf-steward$suffix"; then
    next=$(sbatch --parsable "--begin=now+${minutes}minutes" --output=/dev/null \
        "$folder/watch$suffix.sh" "$folder") || exit
    printf 'watch%s\t%s\t1\t1\n' "$suffix" "${next%%;*}" >>"$folder/jobs.tsv"
fi
