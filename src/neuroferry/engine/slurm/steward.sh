# The last job of a round. neuroferry in its image decides what has to run again and closes the record; this script
# around it needs nothing but bash, and closes the record where that cannot start.

clean_environment
patience=$((patience * 2))

# end_if_settled: when another steward has already settled this round.
end_if_settled() {
    local latest
    ! has_ended || exit 0
    [[ ! -e $folder/stopped ]] || exit 0
    latest=$(last_round)
    ((latest > round)) || return 0
    # It was stopped while it submitted the next round, whose jobs need their own.
    if [[ ! -e $folder/submitted-$latest/all ]]; then
        look || exit 75
        [[ ! $(ours | awk -F '|' '$5 ~ /^nf-steward/') ]] || exit 0
        replace_steward "$latest" "The submission of jobs was stopped half-way" || exit 75
    fi
    exit 0
}

# wait_for_others: until no other job of this run is left, as two may not process one step. If that takes more than
# a minute, another steward waits in its place, outside the nodes.
wait_for_others() {
    local tries left
    for ((tries = 0; tries < 30; tries++)); do
        if look; then
            if ours | awk -F '|' -v me="$me" '$5 ~ /^nf-steward/ && $3 == "RUNNING" && $1 < me + 0' | grep -q .; then
                exit 0 # it does the same work
            fi
            left=$(ours | awk -F '|' '$5 !~ /^nf-watch/ && ($5 !~ /^nf-steward/ || $3 == "COMPLETING")' |
                cut -d '|' -f 1 | sort -u)
            [[ $left ]] || return 0
            if ((tries >= 8)) && send_steward "$round" --dependency="afterany:${left//$'\n'/:}"; then
                exit 0
            fi
        fi
        sleep "$((tries < 5 ? 2 : 15))"
    done
    send_steward "$round" "--begin=now+10minutes" || true
    exit 75
}

ask_for_states() {
    local states=$folder/states-$round.txt ids tries
    ids=$(cut -f 2 "$folder/jobs.tsv" | paste -s -d ,)
    for ((tries = 0; tries < patience; tries++)); do
        if at_cluster sacct --allocations --parsable2 --noheader --format=JobID,State,ExitCode --jobs="$ids" \
            >"$states.new" 2>/dev/null && [[ -s $states.new ]]; then
            break
        fi
        if at_cluster scontrol --oneliner show job >"$states.new" 2>/dev/null && [[ -s $states.new ]]; then
            break
        fi
        sleep 1
    done
    mv "$states.new" "$states"
}

end_if_settled
wait_for_others
end_if_settled
ask_for_states
"${enter[@]}" steward --run "$run" --round "$round"
code=$?
again=/proc/self/fd/$own/resubmit-$((round + 1)).sh
if [[ ! $anyone && (! -O $again || -L $again) ]]; then
    again=
fi
if ! has_ended && [[ ! -e $again ]]; then
    problem=$(grep . "$folder/log/$job_name-$me.txt" 2>/dev/null | tail -n 1)
    case $code in
        126 | 127 | 255) unavailable=69 ;;
    esac
    hasty=yes # it may be the only node
    replace_steward "$round" "The last job could not start neuroferry on ${node:-$(uname -n)} (exit code $code): $problem" \
        ${node:+"--exclude=$node"}
    if has_ended; then
        cancel_watches "$round"
    fi
    exit 75
fi
if [[ -e $again && ! -e $folder/submitted-$((round + 1)) ]] && ! has_ended && ! bash "$again"; then
    reason="The jobs that had to run again could not be submitted; see the logs of the last jobs in $folder/log."
    "${enter[@]}" steward --run "$run" --round "$round" --close "$reason"
    code=$?
    close_record 75 "$reason"
fi
# last, as an active watch resubmits itself as long as this job exists
: >"$folder/closed-$round"
cancel_watches "$round"
exit "$code"
