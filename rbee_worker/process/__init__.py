"""The engine in a process of its own: starting it, and the socket between it and its client."""
