"""File formats: bytes become arrays, and nothing in a file is executed."""
