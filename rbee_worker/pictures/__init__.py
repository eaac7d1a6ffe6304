"""Pictures as a model takes them: read, cut and resized as its processor does, and their places in
the prompt. No torch, and no model: the numbers go to the engine, which has the tower."""

from rbee_worker.pictures.picture import Picture

__all__ = ["Picture"]
