"""llama.cpp's own converter, fetched when a test needs it: nothing of it is kept here."""
