"""The inventory: every certificate that was issued, kept after its request is deleted."""
