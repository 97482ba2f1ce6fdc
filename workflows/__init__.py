"""What is computed: one Nipype graph builder a file."""
