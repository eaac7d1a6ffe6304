"""Speech around a model that speaks: text made ready, voices, tokens to frames, frames to sound.

All of it runs beside the engine, in numpy. docs/speech.md has the shape of the whole.
"""
