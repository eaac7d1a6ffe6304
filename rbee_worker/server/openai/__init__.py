"""The OpenAI routes: a second rendering of the same events that job streams show."""
