"""Statistics of trials: pure functions on arrays. Refuses to know files, runs and trials."""
