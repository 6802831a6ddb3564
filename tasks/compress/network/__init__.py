"""Smaller networks: made out of the trained original, or new ones of its kind, and trained to answer as it does."""
