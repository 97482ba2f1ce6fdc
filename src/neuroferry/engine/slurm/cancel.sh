clean_environment
if ! cancel_all; then
    say "Some jobs of this run are still in the queue, or SLURM does not answer: run this again. They end by" \
        "themselves as soon as they start."
    exit 75
fi
"${enter[@]}" steward --run "$run" --close "The run was cancelled." --exit-code 130
code=$?
close_record 130 "The run was cancelled."
if ((code == 130)); then
    code=0
fi
exit "$code"
