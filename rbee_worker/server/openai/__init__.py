"""The OpenAI routes: the same events as in job streams, in OpenAI's form."""
