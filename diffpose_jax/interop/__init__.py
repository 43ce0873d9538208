"""Foreign weights into this project's variables, and samplers out of it."""
