"""Building blocks of models. They take values (scale, window, rope, norms), never an
architecture."""
