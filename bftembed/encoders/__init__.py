"""Text to vectors: the encoder seam and its implementations. Start at `bftembed.encoders.base`."""
