"""What the verbs mean, once, for every kind."""
