"""Arguments in, exit code out; one module a command, heavy imports inside the command."""
