"""The journal: jobs and their events on disk, so that they outlive the worker's process.

`records.py` says what is kept, `database.py` is the SQLite file, `directory.py` the directory that
one worker at a time holds, `writer.py` the thread that writes. No HTTP here, and no event loop but
in the writer's answers.
"""
