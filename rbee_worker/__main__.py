"""`python -m rbee_worker` is `rbee-worker`."""

from rbee_worker.cli.main import main

main()
