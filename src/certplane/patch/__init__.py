"""JSON patch, merge patch, strategic merge patch, server-side apply. Pure functions, no I/O."""
