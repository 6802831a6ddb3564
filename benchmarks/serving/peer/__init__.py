"""The same file behind each peer's own server. MODEL and PORT come from the environment; each runs one worker."""
