"""Ollama's routes: the same events as in job streams, as lines of JSON in Ollama's form."""
