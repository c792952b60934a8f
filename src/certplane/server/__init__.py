"""HTTP. Generic: imports no kind and no store implementation."""
