"""Where documents went and tokens came from, read from what stages publish: nothing here starts a run."""
