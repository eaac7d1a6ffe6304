"""Byte offsets in the memory that a team's threads share; each writer has its own cache line."""

BARRIER = 0  # two lines, see threads.py
EPOCH = 128  # replays started, plus one for the stop; threads sleep on its low half
SLEEPERS = 192  # threads asleep or about to be
STOP = 256
ENTRIES = 320  # address of the program's entries
COUNT = 328  # how many
STEP = 336  # address of the step header
TIMES = 344  # address of int64 [COUNT + 1] for the clock at each entry, or 0
PHASE = 352  # barriers that thread 0 has passed
BYTES = 384
