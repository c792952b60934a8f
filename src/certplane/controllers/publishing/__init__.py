"""Controllers that create and maintain objects which other components rely on."""
