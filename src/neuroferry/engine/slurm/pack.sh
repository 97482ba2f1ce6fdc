log=$folder/log/$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.txt
"${enter[@]}" job --run "$run" --round "$round" --pack "$pack" --task "$task"
code=$?
case $code in
    0) # only what went wrong is worth a file
        rm -f -- "$log"
        ;;
    126 | 127 | 255) # neuroferry did not start, so it could not say so
        reason=$(grep . "$log" 2>/dev/null | tail -n 1)
        reason=${reason//[\"\\[:cntrl:]]/ }
        printf '{"time": "%s", "event": "job_not_started", "pack": "%s", "task": %s, "round": %s, "exit_code": %s, "host": "%s", "reason": "%s"}\n' \
            "$(date -u +%Y-%m-%dT%H:%M:%S.000Z)" "$pack" "$task" "$round" "$code" "${SLURMD_NODENAME-}" "${reason:0:400}" \
            >>"$folder/../events.jsonl"
        ;;
esac
exit "$code"
