"""Repacking a file's blocks into the layout that products read."""
