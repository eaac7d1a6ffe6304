"""Anthropic's Messages routes: the same events as in job streams, in Anthropic's form."""
