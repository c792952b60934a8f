"""The client of the API: the only way in which controllers and tools read and write objects."""
