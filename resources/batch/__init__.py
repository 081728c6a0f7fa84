"""Where a registered model is run over many pictures at once."""
