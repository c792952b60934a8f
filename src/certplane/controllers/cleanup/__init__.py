"""Controllers that delete expired or finished objects."""
