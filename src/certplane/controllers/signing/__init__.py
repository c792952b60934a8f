"""The signing controller, and the signers file."""
