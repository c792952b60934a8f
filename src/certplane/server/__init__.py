"""HTTP. Generic: names no kind and no store."""
