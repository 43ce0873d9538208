"""What a work directory holds: config, checkpoints, and the loading of a trained model."""
