"""What a sequence keeps between steps: the layers' declarations, and who holds which block or
slot."""
