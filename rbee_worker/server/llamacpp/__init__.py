"""llama.cpp's own routes: the same events as in job streams, in the form of its server."""
