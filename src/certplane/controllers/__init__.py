"""Each decides purely, with a thin reconcile around it."""
