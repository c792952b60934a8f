"""What is checked in a certificate before it is signed."""
