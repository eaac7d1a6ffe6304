"""OpenAI's Responses routes: the same events as in job streams, in the form of that API."""
