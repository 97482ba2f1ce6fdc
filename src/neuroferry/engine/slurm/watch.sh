# A job that SLURM could not start on its node (a failed prolog, a missing disk) is put on hold, and jobs that
# depend on it would wait for ever, as do jobs that ask for more than they may have. Such jobs are released as often
# as the settings allow; then they are cancelled, and the steward reports why their steps never ran. Jobs that a user
# has put on hold stay on hold.

clean_environment

# free TASK NAME REASON
free() {
    local times
    times=$(grep -cxF -e "$1" "$folder/held.txt" 2>/dev/null) || times=0
    printf '%s\n' "$1" >>"$folder/held.txt"
    if ((times >= retries)); then
        printf '%s\n' "$1" >>"$folder/given-up.txt"
        tell "Job $1 ($2) could not be started ($3), attempts: $((times + 1)); it was cancelled."
        at_cluster scancel "$1"
    elif [[ $3 =~ ^($never)$ ]]; then
        ((times > 0)) || tell "Job $1 ($2) cannot start as it is ($3)."
    elif at_cluster scontrol release "$1"; then
        tell "Job $1 ($2) could not be started ($3); it was released again."
    fi
}

look_after_jobs() {
    local number task state reason name
    while IFS='|' read -r number task state reason name; do
        [[ $number && $state == PENDING && $name != nf-watch* ]] || continue
        [[ $task == N/A ]] || number+=_$task
        case $reason in
            *launch*failed*held* | *requeue*held* | JobHoldMaxRequeue) free "$number" "${name%"-$token"}" "$reason" ;;
            *) [[ ! $reason =~ ^($never)$ ]] || free "$number" "${name%"-$token"}" "$reason" ;;
        esac
    done < <(ours)
}

look_after_steward() {
    local latest left
    [[ ! $(ours | awk -F '|' '$5 ~ /^nf-steward/') ]] || return 0
    # the others may have ended the run after they were listed
    ! has_ended || return 0
    latest=$(last_round)
    ((latest == round)) || [[ ! -e $folder/submitted-$latest/all ]] || return 0
    left=$(workers | cut -d '|' -f 1 | sort -u)
    replace_steward "$latest" "The last job of the run was lost" ${left:+"--dependency=afterany:${left//$'\n'/:}"} || true
}

if has_ended || [[ -e $folder/stopped ]]; then
    exit 0
fi
# An answer that does not come says nothing about any job.
known=
if look; then
    known=yes
    look_after_jobs
fi
# The next watch first: the steward cancels every watch that is on the list when it ends.
latest=$(last_round)
if ((latest == round)) || [[ ! -e $folder/submitted-$latest/all ]]; then
    send_watch "$round" || true
    if [[ $known ]]; then
        look_after_steward
    fi
fi
