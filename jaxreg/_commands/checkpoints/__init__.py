"""The commands `inspect` and `convert`: checkpoints and Keras models read without the code that made them."""
