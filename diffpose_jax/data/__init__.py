"""Data: files become clips in memory (`clips`), and clips become windows on the device (`windows`)."""
