"""Mixtures of Gaussians: the type, fitting them to points, and their stored form."""
