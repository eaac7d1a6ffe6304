"""The text side: requests in words become ids for the engine, its ids become text again."""
