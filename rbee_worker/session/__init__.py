"""The text side: text requests become ids for the engine, and its ids become text again."""
