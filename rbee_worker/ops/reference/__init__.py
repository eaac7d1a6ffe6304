"""`reference`: every operation in plain torch; the definition of correct results."""
