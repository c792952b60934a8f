"""The signing controller, and the signers that users declare."""
