"""What Linen and NNX share."""
