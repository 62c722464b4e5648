"""Ahead of time: from a checkpoint folder to a bundle."""
