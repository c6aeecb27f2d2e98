"""The commands `inspect` and `convert`: read checkpoints and Keras models without the code that made them."""
