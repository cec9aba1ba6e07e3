"""The chat page at `/`, for people without a terminal."""
