"""The object model: types, names, selectors, options and validation that all kinds share. Pure functions, no I/O."""
