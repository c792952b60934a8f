"""The controllers. Each has a pure decision and a reconciler that carries it out through the client."""
