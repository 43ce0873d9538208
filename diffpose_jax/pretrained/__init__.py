"""Trained models that come with the package, one folder each: config, weights, calibration and model card."""
