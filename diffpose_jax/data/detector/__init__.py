"""What a 2D detector does: keypoint noise, heatmaps and the mixtures fitted to them, simulated or from its files."""
