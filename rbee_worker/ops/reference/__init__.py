"""`reference`: every operation in plain torch; the definition of right."""
