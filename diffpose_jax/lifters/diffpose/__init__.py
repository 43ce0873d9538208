"""DiffPose in three pages: the method, the initial distribution H_K, and what its releases compute."""
