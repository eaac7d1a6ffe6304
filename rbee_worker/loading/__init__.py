"""From a model reference to a running engine: checks, memory plan, weights."""
