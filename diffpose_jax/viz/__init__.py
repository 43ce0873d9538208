"""Figures of poses, predictions and data sets. Everything draws on the `Axes` it is given, without pyplot."""
