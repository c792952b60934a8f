"""Certificate authorities, their files, and the certificates that they issue."""
