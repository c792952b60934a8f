"""The only door that controllers, agent and tools have to the state."""
