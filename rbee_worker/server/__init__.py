"""The HTTP side of a worker: routes, streams, limits. Never imports torch."""
