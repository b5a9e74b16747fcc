"""What events mean: folds over the events of a machine or of a trace."""
